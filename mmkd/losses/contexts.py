"""ReviewKD's hierarchical context loss: mean squares at several sizes of pooling."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SIZES = (4, 2, 1)
"""Sides of the pooled maps; each counts half of the one before, the first half of the whole map."""


def context_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean square of the difference of two maps and of their pooled maps, weights halving, summing to 1.

    Pooled to sides of 4, 2 and 1, those that are smaller than the map.

    >>> import torch
    >>> context_distance(torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))
    tensor(1.)
    """
    height = student.shape[2]
    total, share, weights = F.mse_loss(student, teacher), 1.0, 1.0
    for side in SIZES:
        if side >= height:
            continue
        share /= 2
        ours, theirs = (F.adaptive_avg_pool2d(maps, side) for maps in (student, teacher))
        total = total + share * F.mse_loss(ours, theirs)
        weights += share
    return total / weights
