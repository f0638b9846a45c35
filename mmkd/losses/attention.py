"""Spatial attention: where a feature map is active, whatever its channels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def attention_map(feature: Tensor) -> Tensor:
    """``mean_c f^2`` over channels, flattened over positions and scaled to unit length: [B, HW].

    >>> import torch
    >>> attention_map(torch.ones(1, 3, 2, 2))
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    return F.normalize(feature.square().mean(1).flatten(1), dim=1)


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two attention maps over images and positions.

    >>> import torch
    >>> attention_distance(torch.ones(1, 3, 2, 2), torch.ones(1, 8, 2, 2))
    tensor(0.)
    """
    return (attention_map(student) - attention_map(teacher)).square().mean()


def attention_turn(student: Tensor, teacher: Tensor) -> Tensor:
    """The same difference summed over positions, ``2 - 2 cos`` of the angle between the two; mean over images.

    Maps are of unit length, so it is between 0 and 2 for a map of any size, where the mean over positions is
    at most 2 / HW and all but leaves out the large maps of a pyramid.

    >>> import torch
    >>> left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 3.0]]]])
    >>> attention_turn(left, right), attention_turn(left, left)
    (tensor(2.), tensor(0.))
    """
    return (attention_map(student) - attention_map(teacher)).square().sum(1).mean()
