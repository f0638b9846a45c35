"""How features lie to a foundation model's patch tokens, position by position."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``1 - cos`` of the channels of each position, the mean over images and positions.

    >>> import torch
    >>> cosine_distance(torch.ones(1, 2, 1, 1), torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)).round(decimals=4)
    tensor(0.2929)
    """
    return (1 - F.cosine_similarity(student, teacher, dim=1)).mean()
