"""Pearson correlation of feature maps, channel by channel."""

from __future__ import annotations

from torch import Tensor

from ..collectives import global_mean

EPSILON = 1e-6
"""A channel whose standard deviation is below this counts as constant."""


def standardised(feature: Tensor) -> Tensor:
    """Each channel with mean 0 and variance 1 over images and positions of all ranks: [C, B H W]."""
    rows = feature.transpose(0, 1).flatten(1)
    rows = rows - global_mean(rows)
    variance = global_mean(rows.square()).clamp_min(EPSILON**2)  # of 0 the root has no gradient
    return rows / variance.sqrt()


def pearson_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``1 - r``, mean over channels: half the mean squared distance of the standardised maps.

    >>> import torch
    >>> x = torch.arange(8.0).view(2, 1, 2, 2)
    >>> round(pearson_distance(x, 3 * x + 1).item(), 6), round(pearson_distance(x, -x).item(), 6)
    (0.0, 2.0)
    """
    squared = (standardised(student) - standardised(teacher)).square()
    return global_mean(squared).mean() / 2
