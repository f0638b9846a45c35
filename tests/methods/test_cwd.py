"""CWD on real models: taps, weight and temperature of each task."""

import helpers as h
import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from mmkd.methods import CWD


@pytest.mark.parametrize(
    ('family', 'tap', 'weight', 'temperature'),
    [
        ('segmentor', 'decode_head.conv_seg', 3.0, 4.0),
        ('retinanet', 'neck', 5.0, 1.0),
        ('classifier', 'backbone', 1.0, 1.0),
    ],
)
def test_defaults_follow_the_task(family, tap, weight, temperature):
    model = h.distiller(h.FAMILIES[family](), h.FAMILIES[family](), cwd=dict(type='mmkd.CWD'))
    cwd = model.distillation.cwd
    assert [t.at for t in cwd.student_taps] == [tap]
    assert (cwd.weight(0.0), cwd.temperature) == (weight, temperature)


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_the_loss_is_the_divergence_over_positions_at_its_temperature(temperature):
    student, teacher = torch.randn(2, 2, 3, 4, 4)
    s, t = (softmax(m.flatten(2).numpy() / temperature, -1) for m in (student, teacher))
    expected = temperature**2 * np.mean(rel_entr(t, s).sum(-1))
    got = CWD(temperature=temperature).distance(student, teacher).item()
    assert got == pytest.approx(expected, rel=1e-5)
