"""Noise contrast against NumPy, and its gradient against differences."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from mmkd.losses import noise_contrast

RNG = np.random.default_rng(0)
P, N = RNG.uniform(0.1, 2, size=4), RNG.uniform(0.1, 2, size=(4, 6))


def test_noise_contrast():
    rows = [-np.log(p / (p + 0.3)) - np.log(0.3 / (row + 0.3)).sum() for p, row in zip(P, N)]
    got = noise_contrast(torch.tensor(P), torch.tensor(N), 0.3).item()
    assert got == pytest.approx(np.mean(rows), rel=1e-5)


def test_the_gradient_by_finite_differences():
    own = tuple(torch.tensor(side, requires_grad=True) for side in (P, N))
    assert gradcheck(lambda p, n: noise_contrast(p, n, 0.3), own, eps=1e-6, atol=1e-7)
