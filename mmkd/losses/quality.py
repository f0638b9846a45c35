"""The quality focal form of a cross entropy: rows on which teacher and student agree count little."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def quality_focal(student: Tensor, teacher: Tensor) -> Tensor:
    """``sum_c BCE(s, sigmoid(t)) |sigmoid(s) - sigmoid(t)|`` of each row of logits [N, C]: [N].

    >>> import torch
    >>> quality_focal(torch.zeros(1, 2), torch.zeros(1, 2))
    tensor([0.])
    """
    chance = teacher.sigmoid()
    surprise = F.binary_cross_entropy_with_logits(student, chance, reduction='none')
    return (surprise * (student.sigmoid() - chance).abs()).sum(-1)
