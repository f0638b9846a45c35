"""Divergences against formulas written independently in NumPy, and their gradients against differences."""

import numpy as np
import pytest
import torch
from scipy.special import expit, rel_entr, softmax
from torch.autograd import gradcheck

from mmkd.losses import binary_kl, channel_kl, softmax_kl

RNG = np.random.default_rng(0)
MAPS = RNG.normal(size=(2, 3, 5, 4, 6))
"""A student's and a teacher's maps [3, 5, 4, 6]."""
ROWS = RNG.normal(0, 3, size=(2, 7, 5))


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_softmax_kl(temperature):
    s, t = (softmax(rows / temperature, axis=1) for rows in ROWS)
    expected = temperature**2 * rel_entr(t, s).sum(1)
    got = softmax_kl(*torch.tensor(ROWS), temperature).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize('temperature', [1.0, 2.0])
def test_binary_kl(temperature):
    s, t = (expit(rows / temperature) for rows in ROWS)
    expected = temperature**2 * (rel_entr(t, s) + rel_entr(1 - t, 1 - s))
    got = binary_kl(*torch.tensor(ROWS), temperature).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-10)


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_channel_kl(temperature):
    total = 0.0
    for image in range(3):
        for channel in range(5):
            s, t = (softmax(maps[image, channel].ravel() / temperature) for maps in MAPS)
            total += rel_entr(t, s).sum()
    expected = temperature**2 * total / (3 * 5)
    assert channel_kl(*torch.tensor(MAPS), temperature).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('divergence', [softmax_kl, binary_kl, channel_kl])
def test_gradients_by_finite_differences(divergence):
    student, teacher = torch.tensor(MAPS)
    student.requires_grad_()
    assert gradcheck(lambda s: divergence(s, teacher, 2.0), student, eps=1e-6, atol=1e-7)


def test_they_are_finite_for_extreme_logits():
    high, low = torch.tensor([[200.0, -200.0]]), torch.tensor([[-200.0, 200.0]])
    assert softmax_kl(high, low).item() == pytest.approx(400.0)
    assert binary_kl(high, low)[0].tolist() == pytest.approx([200.0, 200.0])
    for divergence in (softmax_kl, binary_kl):
        student = high.clone().requires_grad_()
        divergence(student, low).sum().backward()
        assert student.grad.isfinite().all()


def test_what_all_classes_share_says_nothing():
    """A constant on all logits leaves the softmax as it is, and changes each sigmoid."""
    student, teacher = torch.tensor(ROWS)
    shifted = (student + 3.0, teacher - 1.0)
    torch.testing.assert_close(softmax_kl(*shifted), softmax_kl(student, teacher))
    assert (binary_kl(*shifted) - binary_kl(student, teacher)).abs().max() > 0.1
