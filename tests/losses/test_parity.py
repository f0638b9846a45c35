"""Attention against a formula written independently in NumPy, and its gradient against differences."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from mmkd.losses import attention_distance

S, T = np.random.default_rng(0).normal(size=(2, 3, 5, 4, 6))
"""Two feature maps [3, 5, 4, 6]."""


def test_attention_distance():
    maps = []
    for feature in (S, T):
        energy = (feature**2).mean(1).reshape(3, -1)
        maps.append(energy / np.linalg.norm(energy, axis=1, keepdims=True))
    expected = ((maps[0] - maps[1]) ** 2).mean()
    got = attention_distance(torch.tensor(S), torch.tensor(T)).item()
    assert got == pytest.approx(expected, abs=1e-12)


def test_the_gradient_by_finite_differences():
    student, teacher = torch.tensor(S, requires_grad=True), torch.tensor(T)
    assert gradcheck(lambda s: attention_distance(s, teacher), student, eps=1e-6, atol=1e-7)
