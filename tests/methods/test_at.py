"""AT on real models: the stages of classifiers, whatever their channels."""

import helpers as h
import pytest
import torch
from torch import nn

from mmkd import Tap
from mmkd.methods import AT

STAGES = ['backbone.layer2', 'backbone.layer3', 'backbone.layer4']


@pytest.mark.parametrize(
    ('family', 'taps'),
    [('classifier', STAGES), ('segmentor', ['backbone']), ('retinanet', ['neck'])],
)
def test_classifiers_are_tapped_after_every_stage_but_the_first(family, taps):
    model = h.distiller(h.FAMILIES[family](), h.FAMILIES[family](), at=dict(type='mmkd.AT'))
    assert [tap.at for tap in model.distillation.at.student_taps] == taps
    assert model.distillation.at.weight(0.0) == 1000.0


class BaseClassifier(nn.Module):
    """A classifier by its name, with one stage."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.stages = nn.ModuleList([nn.ReLU()])


def test_a_backbone_of_one_stage_is_tapped_there():
    assert AT().default_taps(BaseClassifier()) == [Tap('backbone.stages.0')]


def test_channels_need_not_agree():
    model = h.distiller(h.classifier(8), h.classifier(16), at=dict(type='mmkd.AT'))
    assert not [name for name in model.state_dict() if name.startswith('distillation.')]
    assert h.losses_of(model, 'classifier')['at/loss'] > 0


def test_the_loss_compares_where_maps_are_active():
    student, teacher = torch.zeros(1, 2, 1, 2), torch.zeros(1, 3, 1, 2)
    student[0, :, 0, 0] = 2.0  # all at the first position
    teacher[0, 1, 0, :] = torch.tensor([3.0, 4.0]).sqrt()  # energies 3 : 4
    expected = ((1 - 0.6) ** 2 + 0.8**2) / 2
    assert AT().distance(student, teacher).item() == pytest.approx(expected)
