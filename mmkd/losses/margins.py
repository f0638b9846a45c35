"""OFD's partial distance: what the teacher's ReLU hides need not be met, only stayed below."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RARE = 1e-3
"""The least chance of a value below 0 for which its mean is taken."""


def margins(mean: Tensor, spread: Tensor) -> Tensor:
    """``E[x | x < 0]`` of normal variables, channel by channel; three deviations below 0 where that is rare.

    >>> margins(torch.tensor([0.0, 9.0]), torch.tensor([1.0, 1.0]))
    tensor([-0.7979, -3.0000])
    """
    spread = spread.abs().clamp_min(1e-12)
    below = torch.special.ndtr(-mean / spread)
    density = torch.exp(-(mean / spread).square() / 2) / math.sqrt(2 * math.pi)
    usual = mean - spread * density / below.clamp_min(RARE)
    return torch.where(below > RARE, usual, -3 * spread)


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Squared differences to ``max(t, margin)``, summed over an image, the mean over images.

    A place where the teacher is not above 0 counts only as long as the student is above the target.

    Args:
        student: maps [B, C, H, W] before their ReLU.
        teacher: maps likewise.
        margin: of each channel [C].

    >>> ones = torch.ones(1, 1, 1, 2)
    >>> partial_distance(torch.tensor([[[[-5.0, 0.0]]]]), -ones, torch.tensor([-0.5]))
    tensor(0.2500)
    """
    target = torch.maximum(teacher, margin[:, None, None])
    counts = (student > target) | (target > 0)
    return ((student - target).square() * counts).sum() / len(student)
