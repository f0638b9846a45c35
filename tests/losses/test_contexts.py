"""The hierarchical context loss by plain pooling."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from mmkd.losses.contexts import context_distance


@pytest.mark.parametrize('size', [1, 2, 4, 8])
def test_squares_at_several_sizes(size):
    s, t = np.random.default_rng(0).normal(size=(2, 2, 3, size, size))
    total, weights, share = ((s - t) ** 2).mean(), 1.0, 1.0
    for side in (4, 2, 1):
        if side < size:
            share /= 2
            cell = size // side
            pooled = [m.reshape(2, 3, side, cell, side, cell).mean((3, 5)) for m in (s, t)]
            total += share * ((pooled[0] - pooled[1]) ** 2).mean()
            weights += share
    got = context_distance(torch.tensor(s), torch.tensor(t)).item()
    assert got == pytest.approx(total / weights, rel=1e-9)


def test_the_gradient_by_finite_differences():
    student = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s: context_distance(s, torch.zeros_like(s)), student)
