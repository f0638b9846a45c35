"""FitNet on real models: weights of the tasks, and the squared error through its regressor."""

import helpers as h
import pytest
import torch

from mmkd import Tap
from mmkd.family.taps import capture


@pytest.mark.parametrize(
    ('family', 'weight', 'tap'), [('classifier', 100.0, 'backbone'), ('retinanet', 1.0, 'neck')]
)
def test_defaults_follow_the_task(family, weight, tap):
    model = h.distiller(h.FAMILIES[family](), h.FAMILIES[family](), f=dict(type='mmkd.FitNet'))
    assert model.distillation.f.weight(0.0) == weight
    assert [t.at for t in model.distillation.f.student_taps] == [tap]


def test_the_loss_is_the_mean_square_after_the_regressor():
    tap = Tap('backbone.layer4')
    fitnet = dict(type='mmkd.FitNet', tap=tap.at, weight=1.0)
    model = h.freeze_statistics(h.distiller(h.classifier(8), h.classifier(16), f=fitnet))
    batch = model.data_preprocessor(h.raw_batch('classifier'), True)
    got = model(**batch, mode='loss')['f/loss']
    maps = []
    for network in (model, model.distillation.teachers['teacher'].model):
        with torch.no_grad(), capture(network, [tap.place]) as features:
            network.extract_feat(batch['inputs'])
        maps.append(features[tap][0])
    regressor = model.distillation.f.adapters[0].project
    weight, bias = regressor.weight[:, :, 0, 0], regressor.bias[:, None, None]
    mapped = torch.einsum('oc,bchw->bohw', weight, maps[0]) + bias
    assert got.item() == pytest.approx(((mapped - maps[1]) ** 2).mean().item(), rel=1e-5)
