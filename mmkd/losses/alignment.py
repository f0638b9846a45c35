"""A student's maps at the mean and spread that the teacher's have, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..collectives import sum_over_ranks
from .pearson import EPSILON, moments


def aligned(pairs: Sequence[tuple[Tensor, Tensor]], counted: Tensor) -> tuple[list[Tensor], Tensor]:
    """The first map [B, C, H, W] of each pair, standardised, at the mean and spread of the second.

    Both are over images and positions of all ranks. What else each rank has counted is summed in the same
    exchange; the backward pass takes another one.

    >>> import torch
    >>> x = torch.arange(8.0).view(2, 1, 2, 2)
    >>> aligned([(x, 3 * x + 1)], torch.ones(1))[0][0].flatten()
    tensor([ 1.,  4.,  7., 10., 13., 16., 19., 22.])
    """
    parts = [moments(student, teacher) for student, teacher in pairs]
    *sums, total = sum_over_ranks([*parts, counted.to(parts[0])], apart=True)
    maps = [_aligned(own, student) for own, (student, _) in zip(sums, pairs)]
    return maps, total.to(counted)


def _aligned(sums: Tensor, student: Tensor) -> Tensor:
    s, t, ss, tt, _ = sums[1:] / sums[0]
    ours, theirs = (ss - s * s).clamp_min(EPSILON**2), (tt - t * t).clamp_min(0.0)
    values = (s, (theirs / ours).sqrt(), t)
    mean, scale, target = (value.to(student)[:, None, None] for value in values)
    return (student - mean) * scale + target
