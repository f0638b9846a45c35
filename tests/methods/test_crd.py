"""CRD on real classifiers: two iterations by plain loops, where numbers come from, and what is answered."""

import helpers as h
import numpy as np
import pytest
import torch
from resumable import config, run

from mmkd import InputError, Tap
from mmkd.family.taps import capture

CRD = dict(type='mmkd.CRD', width=6, negatives=5)
N, NECK = 9, Tap('neck')


def still(**options):
    model = h.distiller(h.classifier(8), h.classifier(16), crd=dict(CRD, images=N, **options))
    return h.freeze_statistics(model.train())


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_two_iterations_by_loops():
    model = still(momentum=0.3)
    method = model.distillation.crd
    batch = model.data_preprocessor(h.raw_batch('classifier'), True)
    for sample, number in zip(batch['data_samples'], (7, 2)):
        sample.set_metainfo(dict(sample_idx=number))
    found = []
    for network, project in zip(
        (model, model.distillation.teachers['teacher'].model), method.projectors
    ):
        with torch.no_grad(), capture(network, [NECK.place]) as features:
            network(batch['inputs'], mode='tensor')
        weight, bias = (p.detach().double().numpy() for p in project.parameters())
        found.append(unit(features[NECK][-1].double().numpy() @ weight.T + bias))
    generator = torch.Generator().manual_seed(0)
    memories = unit(torch.rand(2, N, 6, generator=generator).double().numpy() * 2 - 1)
    scale = None
    for _ in range(2):
        drawn = torch.randint(N, (5,), generator=generator).tolist()
        chances = np.array([
            [[np.exp(found[1 - side][i] @ memories[side][k] / 0.07) for k in [number, *drawn]]
             for i, number in enumerate((7, 2))]
            for side in range(2)
        ])  # fmt: skip
        scale = chances.mean((1, 2)) * N if scale is None else scale
        loss, noise = 0.0, 5 / N
        for side in range(2):
            for row in chances[side] / scale[side]:
                loss -= np.log(row[0] / (row[0] + noise)) / 2
                loss -= np.log(noise / (row[1:] + noise)).sum() / 2
        got = model(**batch, mode='loss')['crd/loss'].item()
        assert got == pytest.approx(0.8 * loss, rel=1e-3)
        for side in range(2):
            for i, number in enumerate((7, 2)):
                memories[side][number] = unit(0.3 * memories[side][number] + 0.7 * found[side][i])


@pytest.mark.parametrize('tap', [None, 'backbone.layer3'])
def test_it_trains_the_student_and_both_projections(tap):
    model = still(**({'tap': tap} if tap else {}))
    h.losses_of(model, 'classifier')['crd/loss'].backward()
    parts = [model.backbone.layer2, *model.distillation.crd.projectors]
    for part in parts:
        grads = [p.grad for p in part.parameters() if p.grad is not None]
        assert all(grad.isfinite().all() for grad in grads)
        assert sum(grad.abs().sum() for grad in grads) > 0


def test_the_images_are_those_of_the_training_data(shapes, tmp_path):
    cfg = config(shapes, methods=dict(crd=CRD), **{'train_cfg.max_epochs': 1})
    trained = run(cfg, tmp_path)
    method = trained.model.distillation.crd
    assert method.images == len(trained.train_dataloader.dataset) == 8
    assert method.bank.rows.shape == (2, 8, 6)
    state = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    assert not any('bank' in name for name in state['state_dict'])
    assert torch.equal(state['method_states']['crd']['rows'], method.bank.rows)


def test_a_checkpoint_of_other_data_is_answered():
    model, other = still(), still()
    h.losses_of(model, 'classifier')
    method = other.distillation.crd
    method.resume_training(model.distillation.crd.training_state())
    method.images = 12
    with pytest.raises(InputError, match='CRD: images=12: the checkpoint remembers 9 images'):
        h.losses_of(other, 'classifier')


def test_other_tasks_and_tokens_are_answered():
    with pytest.raises(InputError, match='CRD is for classification'):
        h.distiller(h.retinanet(), h.retinanet(), crd=CRD)
    tokens = dict(CRD, tap='backbone.layers.1', teacher_tap='neck')
    with pytest.raises(InputError, match=r'CRD: the student gives .*50, 32.*needed: a vector'):
        h.distiller(h.transformer('vit'), h.classifier(), crd=tokens)
