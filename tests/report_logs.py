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


def with_networks(folder, shapes, family='retinanet', method='pkd', **changes):
    """Work dirs ``alone`` and ``distilled`` of a small network that is its own teacher."""
    import helpers as h
    import torch

    from mmkd.config.conversion import distill
    from mmkd.family.building import build_model, model_config

    plain = h.runner_config(family, folder / 'work', shapes)
    for name, value in changes.items():
        plain[name] = value  # an update would merge them
    torch.manual_seed(0)
    model = build_model(model_config(plain))
    plain.dump(folder / 'teacher.py')
    torch.save(dict(state_dict=model.state_dict()), folder / 'teacher.pth')
    own = distill(plain, method, str(folder / 'teacher.py'), str(folder / 'teacher.pth'))
    student = build_model({**own.model, '_scope_': own.default_scope, **preprocessor(own)})
    student.load_state_dict(model.state_dict(), strict=False)
    for name, cfg, network in (('alone', plain, model), ('distilled', own, student)):
        place = trained(folder / name, 0.4, distilled=name == 'distilled')
        cfg.dump(next(place.glob('*/vis_data/config.py')))
        torch.save(dict(state_dict=network.state_dict()), place / 'epoch_2.pth')
        (place / 'last_checkpoint').write_text(f'/elsewhere/{name}/epoch_2.pth')
    return folder


def preprocessor(cfg):
    """What a Runner adds to a model."""
    outer = cfg.get('data_preprocessor')
    return {} if outer is None else dict(data_preprocessor=outer)


def read(folder):
    """The two trainings of :func:`with_networks`."""
    return named(folder / 'alone', folder / 'distilled')


def named(*folders):
    """Trainings, called as on a page."""
    from mmkd.commands.report.runs import name_arms, read_training

    found = [read_training(folder) for folder in folders]
    name_arms(found, [])
    return found


def moved_to_objects(data):
    """A patch of a detector's class: it finds most objects, a little off, and takes some for another class."""
    import random
    from contextlib import contextmanager
    from unittest import mock

    import torch
    from mmengine.structures import InstanceData

    from mmkd.commands.report.tallies import objects_of

    places = {data.dataset.get_data_info(p)['img_id']: p for p in data.places}

    @contextmanager
    def moved(kind):
        plain = kind.predict

        def predict(self, inputs, samples, rescale=True):
            for sample in plain(self, inputs, samples, rescale):
                rng, found = random.Random(sample.img_id), []
                for one in objects_of(data, places[sample.img_id]):
                    left, top, wide, high = one.place
                    off = rng.uniform(-0.1, 0.1) * wide
                    label = data.classes.index(one.name)
                    label = label if rng.random() < 0.8 else (label + 1) % len(data.classes)
                    box = [left + off, top, left + off + wide, top + high]
                    found.append((box, rng.uniform(0.2, 0.9), label))
                boxes, scores, labels = zip(*found)
                sample.pred_instances = InstanceData(
                    bboxes=torch.tensor(boxes),
                    scores=torch.tensor(scores),
                    labels=torch.tensor(labels),
                )
            return samples

        with mock.patch.object(kind, 'predict', predict):
            yield

    return moved
