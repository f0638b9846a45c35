"""What methods need from the other ranks of a distributed run."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many ranks train together; 1 without distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_ranks(value: Tensor) -> Tensor:
    """A statistic's mean over all ranks, without gradient; itself without distributed training.

    >>> import torch
    >>> mean_over_ranks(torch.tensor(2.0))
    tensor(2.)
    """
    ranks = world_size()
    if ranks == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / ranks
