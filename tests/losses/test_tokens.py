"""Cosines of positions by loops."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from mmkd.losses.tokens import cosine_distance

S, T = np.random.default_rng(0).normal(size=(2, 2, 5, 3, 4))


def test_each_position_counts_alike():
    cosines = [
        s @ t / np.linalg.norm(s) / np.linalg.norm(t)
        for s, t in zip(
            S.transpose(0, 2, 3, 1).reshape(-1, 5), T.transpose(0, 2, 3, 1).reshape(-1, 5)
        )
    ]
    got = cosine_distance(torch.tensor(S), torch.tensor(3 * T)).item()
    assert got == pytest.approx(1 - np.mean(cosines), rel=1e-9)


def test_the_gradient_by_finite_differences():
    student = torch.tensor(S, requires_grad=True)
    assert gradcheck(lambda s: cosine_distance(s, torch.tensor(T)), student)
