"""Pearson's distance against SciPy's correlation, and where a channel does not vary."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from torch.autograd import gradcheck

from mmkd.losses.pearson import pearson_distance

S, T = np.random.default_rng(0).normal(size=(2, 3, 5, 4, 6))
"""Two feature maps [3, 5, 4, 6]."""


def test_it_is_one_less_the_correlation_of_each_channel():
    values = [1 - pearsonr(S[:, c].ravel(), T[:, c].ravel())[0] for c in range(5)]
    got = pearson_distance(torch.tensor(S), torch.tensor(T)).item()
    assert got == pytest.approx(np.mean(values), abs=1e-9)


def test_the_gradient_by_finite_differences():
    student, teacher = torch.tensor(S, requires_grad=True), torch.tensor(T)
    assert gradcheck(lambda s: pearson_distance(s, teacher), student, eps=1e-6, atol=1e-7)


def test_scale_and_offset_do_not_matter():
    student = torch.tensor(S)
    assert pearson_distance(student, 3 * student - 7).item() == pytest.approx(0, abs=1e-12)


def test_a_constant_channel_has_no_gradient_and_no_nan():
    student = torch.rand(2, 3, 2, 2)
    student[:, 1] = 0.5
    student.requires_grad_()
    loss = pearson_distance(student, torch.rand(2, 3, 2, 2))
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.isfinite().all()
    assert gradient[:, 0].abs().max() > 0
