"""How near boxes are to each other."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-7
"""What an area is at least where it is divided by."""


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """GIoU of each pair of boxes (x1, y1, x2, y2): the IoU, less the share of their hull that is empty.

    Args:
        first: [N, 4].
        second: [N, 4].

    >>> one = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    >>> generalized_iou(one, one), generalized_iou(one, one + torch.tensor([2.0, 0.0, 2.0, 0.0]))
    (tensor([1.]), tensor([0.]))
    """
    inner = _area(
        torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    )
    union = _area(first[:, :2], first[:, 2:]) + _area(second[:, :2], second[:, 2:]) - inner
    hull = _area(
        torch.minimum(first[:, :2], second[:, :2]), torch.maximum(first[:, 2:], second[:, 2:])
    )
    return inner / union.clamp_min(EPSILON) - (hull - union) / hull.clamp_min(EPSILON)


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp_min(0).prod(-1)
