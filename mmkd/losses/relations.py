"""How images lie to each other in two embeddings: their distances, and the angles that they span."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-12


def relation_distances(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Mean smooth L1 of normalised distances between images, and of the cosines of their angles.

    Distances are divided by the mean of those above 0. The angle of three images i, j, k is at j.

    Args:
        student: embeddings [N, D].
        teacher: embeddings [N, E].

    >>> x = torch.rand(4, 3)
    >>> [round(term.item(), 4) for term in relation_distances(x, 2 * x + 1)]
    [0.0, 0.0]
    """
    ours, theirs = (_distances(side) for side in (student, teacher))
    distance = F.smooth_l1_loss(ours, theirs)
    return distance, F.smooth_l1_loss(_angles(student), _angles(teacher))


def _distances(points: Tensor) -> Tensor:
    squares = (points[:, None] - points).square().sum(-1)
    apart = squares.clamp_min(TINY).sqrt() * ~torch.eye(
        len(points), dtype=torch.bool, device=points.device
    )
    count = (squares > TINY).sum().clamp_min(1)
    return apart / (apart.sum() / count).clamp_min(TINY)


def _angles(points: Tensor) -> Tensor:
    directions = F.normalize(points - points[:, None], dim=-1)
    return directions @ directions.transpose(1, 2)
