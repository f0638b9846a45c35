"""The balanced mean against plain loops, and its gradient against differences."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from mmkd.losses import balanced_mean

VALUES = np.random.default_rng(0).uniform(size=(3, 11))


@pytest.mark.parametrize('count', [0, 1, 4, 11])
def test_balanced_mean(count):
    first = np.arange(11) < count
    total = 0.0
    for row in VALUES:
        for group in (first, ~first):
            if group.any():
                total += row[group].mean() * group.sum() ** 0.5
    total /= count**0.5 + (11 - count) ** 0.5
    got = balanced_mean(torch.tensor(VALUES), torch.tensor(first)).item()
    assert got == pytest.approx(total, abs=1e-12)


def test_the_gradient_by_finite_differences():
    first = torch.arange(11) < 3
    values = torch.tensor(VALUES, requires_grad=True)
    assert gradcheck(lambda x: balanced_mean(x, first), values, eps=1e-6, atol=1e-8)
