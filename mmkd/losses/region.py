"""Where the anchors around an object still tell something of its place: LD's valuable localisation region."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .boxes import EPSILON

CANDIDATES = 9
"""How many of each level's anchors, the nearest to an object, make its threshold (ATSS)."""
LOWEST = 0.25
"""The share of the threshold at which the region begins."""


def pairwise_iou(anchors: Tensor, boxes: Tensor) -> Tensor:
    """IoU of each anchor [N, 4] with each box [M, 4]: [N, M].

    >>> one = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    >>> pairwise_iou(one, torch.tensor([[0.0, 0.0, 2.0, 1.0], [4.0, 4.0, 5.0, 5.0]]))
    tensor([[0.5000, 0.0000]])
    """
    low = torch.maximum(anchors[:, None, :2], boxes[:, :2])
    high = torch.minimum(anchors[:, None, 2:], boxes[:, 2:])
    inner = (high - low).clamp_min(0).prod(-1)
    areas = [(side[:, 2:] - side[:, :2]).clamp_min(0).prod(-1) for side in (anchors, boxes)]
    return inner / (areas[0][:, None] + areas[1] - inner).clamp_min(EPSILON)


def distance_iou(anchors: Tensor, boxes: Tensor) -> Tensor:
    """DIoU of each pair: the IoU, less the squared distance of the centres over the hull's diagonal's.

    >>> distance_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[2.0, 0.0, 4.0, 2.0]]))
    tensor([[-0.2000]])
    """
    low = torch.minimum(anchors[:, None, :2], boxes[:, :2])
    high = torch.maximum(anchors[:, None, 2:], boxes[:, 2:])
    diagonal = (high - low).square().sum(-1).clamp_min(EPSILON)
    return pairwise_iou(anchors, boxes) - _apart(anchors, boxes) / diagonal


def valuable_region(levels: Sequence[Tensor], boxes: Tensor) -> list[Tensor]:
    """Which anchors have ``tau / 4 <= DIoU < tau`` with an object, level by level: [N_l] of bool each.

    An object's ``tau`` is ATSS's: mean and deviation of the IoUs of its nearest anchors, nine of each level.

    Args:
        levels: the anchors of each level [N_l, 4].
        boxes: the objects of the image [M, 4].

    >>> anchors = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 6.0, 6.0], [20.0, 20.0, 24.0, 24.0]])
    >>> valuable_region([anchors], torch.tensor([[0.0, 0.0, 4.0, 5.0]]))
    [tensor([False, False, False])]
    """
    anchors = torch.cat(list(levels))
    counts = [len(level) for level in levels]
    if not len(boxes):
        return list(anchors.new_zeros(len(anchors), dtype=torch.bool).split(counts))
    tau = _thresholds(levels, boxes)
    distances = distance_iou(anchors, boxes)
    inside = (distances >= LOWEST * tau) & (distances < tau)
    return list(inside.any(1).split(counts))


def _thresholds(levels: Sequence[Tensor], boxes: Tensor) -> Tensor:
    overlaps = []
    for anchors in levels:
        nearest = _apart(anchors, boxes).topk(min(CANDIDATES, len(anchors)), 0, largest=False)
        overlaps.append(pairwise_iou(anchors, boxes).gather(0, nearest.indices))
    found = torch.cat(overlaps)
    return found.mean(0) + found.std(0)


def _apart(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Squared distances of the centres: [N, M]."""
    centres = [(side[:, :2] + side[:, 2:]) / 2 for side in (anchors, boxes)]
    return (centres[0][:, None] - centres[1]).square().sum(-1)
