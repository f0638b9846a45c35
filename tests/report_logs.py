"""Work dirs as trainings leave them, of numbers that are made up."""

import json
import math
import os
import time

CONFIG = """
default_hooks = dict(checkpoint=dict(type='CheckpointHook', save_best='coco/bbox_mAP'))
model = {model}
randomness = {randomness}
train_cfg = dict(by_epoch=True, max_epochs={epochs})
"""


def entry(iteration, scale=1.0, distilled=True):
    """A line of a training log."""
    loss = scale / math.sqrt(iteration)
    found = dict(lr=0.01, grad_norm=3 * loss, loss=loss + 1, loss_cls=loss)
    if distilled:
        found |= {'dpk/loss_relation': loss / 3, 'dpk/ratio.P3': 0.5 * loss, 'dpk/lr': 0.001}
        found |= {'dpk/cka.P3': 1 - 0.5 * loss, 'dpk/samples.P3': 16.0, 'dpk/weight_relation': 2.0}
    counted = dict(time=0.25, data_time=0.01, epoch=1 + (iteration - 1) // 10)
    return {**found, **counted, 'iter': iteration, 'step': iteration}


def validation(epoch, score, **more):
    """A line of a validation."""
    metrics = {'coco/bbox_mAP': score, 'coco/bbox_mAP_l': -1.0}
    metrics |= {f'coco/{name}_precision': value for name, value in more.items()}
    return dict(metrics, time=0.1, data_time=0.01, step=epoch)


def work_dir(
    folder, entries, *, model="dict(type='RetinaNet')", seed=0, epochs=2, attempt='20260101_000000', age=0
):  # fmt: skip
    """A work dir with one more attempt at its training."""
    data = folder / attempt / 'vis_data'
    data.mkdir(parents=True)
    randomness = {} if seed is None else dict(seed=seed)
    config = CONFIG.format(model=model, randomness=randomness, epochs=epochs)
    (data / 'config.py').write_text(config)
    log = data / 'scalars.json'
    log.write_text(''.join(json.dumps(entry) + '\n' for entry in entries))
    os.utime(log, (time.time() - age,) * 2)
    return folder


DPK = "dict(type='mmkd.Distiller', student=dict(), methods=dict(dpk=dict(type='mmkd.DPK')))"


def trained(folder, score, *, distilled=True, epochs=2, until=2, **options):
    """A training that has got to the end of an epoch."""
    entries = []
    for epoch in range(1, until + 1):
        entries += [
            entry(10 * epoch - 5, 1 + score, distilled),
            entry(10 * epoch, 1 + score, distilled),
        ]
        ring = score + (0.1 if distilled else 0.2)
        entries.append(validation(epoch, score * epoch / 2, ring=ring, star=score))
    model = DPK if distilled else "dict(type='RetinaNet')"
    return work_dir(folder, entries, model=model, epochs=epochs, **options)
