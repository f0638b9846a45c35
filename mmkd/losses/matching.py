"""Which query of the student answers for which query of the teacher."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

BOX_COST = 5.0
"""How much an L1 unit of a normalised box counts beside one of class probability."""


@torch.no_grad()
def match_queries(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """One-to-one assignment of one image's queries by class probabilities and boxes.

    Args:
        student: class probabilities [Q, C] and normalised boxes [Q, 4].
        teacher: the same of the teacher; the number of queries may differ.

    Returns:
        Indices of the matched queries of both sides.

    >>> p, b = torch.eye(3), torch.rand(3, 4)
    >>> match_queries((p, b), (p[[2, 0, 1]], b[[2, 0, 1]]))
    (tensor([0, 1, 2]), tensor([1, 2, 0]))
    """
    cost = torch.cdist(student[0], teacher[0], p=1) + BOX_COST * torch.cdist(
        student[1], teacher[1], p=1
    )
    rows, columns = linear_sum_assignment(cost.float().cpu().numpy())
    device = cost.device
    return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)
