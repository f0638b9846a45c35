"""What ranks of a distributed training tell each other; without one, what a single rank knows."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
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


def mean_count(count: Tensor) -> Tensor:
    """The mean over ranks of what each has counted, at least 1 over all of them.

    A rank's sum divided by it is a loss whose mean over the ranks is that of one process.

    >>> import torch
    >>> mean_count(torch.tensor(0.0)), mean_count(torch.tensor(8.0))
    (tensor(1.), tensor(8.))
    """
    return mean_over_ranks(count).clamp_min(1.0 / world_size())


def global_mean(rows: Tensor) -> Tensor:
    """The mean of each row [N, M] over the columns of all ranks, with gradient: [N, 1].

    Ranks may have different numbers of columns. A loss made of it is the same on every rank, and the
    mean of the ranks' gradients, which distributed training takes, is that of one process.

    >>> import torch
    >>> global_mean(torch.tensor([[1.0, 3.0]]))
    tensor([[2.]])
    """
    if world_size() == 1:
        return rows.mean(1, keepdim=True)
    count = rows.new_tensor(float(rows.shape[1]))
    dist.all_reduce(count)
    return _Sum.apply(rows.sum(1, keepdim=True)) / count


def rank() -> int:
    """This rank's number; 0 without distributed training."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_maps(maps: Tensor) -> Tensor:
    """The maps [B, C, H, W] of all ranks, without gradient; smaller ones are padded with zeros.

    Every rank gets the same tensor.

    >>> import torch
    >>> gather_maps(torch.ones(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    """
    if world_size() == 1:
        return maps.detach()
    ours = torch.tensor(maps.shape, device=maps.device)
    shapes = [torch.empty_like(ours) for _ in range(world_size())]
    dist.all_gather(shapes, ours)
    sizes = torch.stack(shapes).tolist()
    most, _, height, width = (max(column) for column in zip(*sizes))
    padding = (0, width - maps.shape[3], 0, height - maps.shape[2], 0, 0, 0, most - len(maps))
    padded = F.pad(maps.detach(), padding).contiguous()
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[: size[0]] for part, size in zip(parts, sizes)])


def on_any_rank(true: bool) -> bool:
    """Whether something is true on any rank.

    >>> on_any_rank(False)
    False
    """
    if world_size() == 1:
        return true
    device = 'cuda' if dist.get_backend() == 'nccl' else 'cpu'
    flag = torch.tensor(float(true), device=device)
    dist.all_reduce(flag)
    return bool(flag > 0)


def local_part(tensor: Any) -> Tensor:
    """What this rank holds of a tensor that may be sharded.

    >>> import torch
    >>> local_part(torch.ones(1))
    tensor([1.])
    """
    return tensor.to_local() if hasattr(tensor, 'to_local') else tensor


def gather_objects(value: Any, group: Any = None) -> list[Any]:
    """What every rank has, by rank.

    >>> gather_objects('own')
    ['own']
    """
    found = [value] * world_size()
    if len(found) > 1:
        dist.all_gather_object(found, value, group=group)
    return found


class _Sum(torch.autograd.Function):
    """The sum over ranks; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)
