"""PKD on real models: published weight and taps, and a loss that forgets scale and offset."""

import helpers as h
import pytest
import torch
from scipy.stats import pearsonr

from mmkd import Tap
from mmkd.methods import PKD


def test_detectors_are_tapped_at_the_neck_with_the_published_weight():
    model = h.distiller(h.retinanet(), h.retinanet(), pkd=dict(type='mmkd.PKD'))
    assert model.distillation.pkd.weight(0.0) == 6.0
    assert model.distillation.pkd.student_taps == [Tap('neck')]


def test_other_tasks_have_weight_one():
    model = h.distiller(h.classifier(), h.classifier(), pkd=dict(type='mmkd.PKD'))
    assert model.distillation.pkd.weight(0.0) == 1.0


def test_the_loss_is_one_less_the_correlation_whatever_scale_and_offset():
    student, teacher = torch.randn(2, 2, 3, 4, 4)
    values = [1 - pearsonr(student[:, c].ravel(), teacher[:, c].ravel())[0] for c in range(3)]
    method = PKD()
    losses = []
    for level in (student, 5 * student - 2):
        method.pairs = lambda step, level=level: [(level, teacher), (level, teacher)]
        losses.append(method(None)['loss'].item())
    assert losses == pytest.approx([2 * sum(values) / 3] * 2, abs=1e-5)
