"""Pearson correlation of feature maps, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..collectives import sum_over_ranks

EPSILON = 1e-6
"""A channel whose standard deviation is below this counts as constant."""


def pearson_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``1 - r``, mean over channels: half the mean squared distance of the standardised maps.

    ``r`` is over images and positions of all ranks.

    >>> x = torch.arange(8.0).view(2, 1, 2, 2)
    >>> round(pearson_distance(x, 3 * x + 1).item(), 6), round(pearson_distance(x, -x).item(), 6)
    (0.0, 2.0)
    """
    return pearson_distances([(student, teacher)])[0]


def pearson_distances(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The distance of each of some pairs of maps [B, C, H, W], with one exchange between ranks for all.

    >>> x = torch.arange(8.0).view(2, 1, 2, 2)
    >>> [round(distance.item(), 6) for distance in pearson_distances([(x, -x), (x, x**2)])]
    [2.0, 0.038476]
    """
    sums = sum_over_ranks([moments(student, teacher) for student, teacher in pairs])
    return [distance_of(own).to(student.dtype) for own, (student, _) in zip(sums, pairs)]


def row_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``1 - r`` over the columns of each row [N, C]: [N]. A row without any spread is at distance 1.

    >>> x = torch.tensor([[1.0, 2.0, 4.0]])
    >>> row_distance(x, 3 * x + 1).round(decimals=3), row_distance(x, -x).round(decimals=3)
    (tensor([0.]), tensor([2.]))
    """
    ours, theirs = (side - side.mean(-1, keepdim=True) for side in (student, teacher))
    return 1 - torch.cosine_similarity(ours, theirs, dim=-1)


def moments(student: Tensor, teacher: Tensor) -> Tensor:
    """Sums over images and positions of ``1, s, t, s^2, t^2, s t``, channel by channel: [6, C].

    Squares are of centred values, whose mean is put back in double precision: sums over ranks then lose
    no digits, however far a mean is from 0.

    >>> moments(torch.ones(1, 1, 1, 2), torch.full((1, 1, 1, 2), 3.0)).flatten().tolist()
    [2.0, 2.0, 6.0, 2.0, 18.0, 6.0]
    """
    over = (0, 2, 3)
    means = [side.mean(over, keepdim=True) for side in (student, teacher)]
    s, t = (side - mean for side, mean in zip((student, teacher), means))
    squares = torch.stack([square.sum(over) for square in (s * s, t * t, s * t)]).double()
    ours, theirs = (mean.flatten().double() for mean in means)
    ones = torch.ones_like(ours)
    count = student.numel() // student.shape[1]
    lifted = torch.stack([ours * ours, theirs * theirs, ours * theirs])
    return torch.cat([count * torch.stack([ones, ours, theirs]), squares + count * lifted])


def distance_of(sums: Tensor) -> Tensor:
    """The distance that the sums of :func:`moments` give."""
    s, t, ss, tt, st = sums[1:] / sums[0]
    floor = EPSILON**2  # of 0 the root has no gradient
    ours, theirs, both = ss - s * s, tt - t * t, st - s * t
    spreads = [variance.clamp_min(floor) for variance in (ours, theirs)]
    correlation = both / (spreads[0] * spreads[1]).sqrt()
    return ((ours / spreads[0] + theirs / spreads[1]) / 2 - correlation).mean()
