"""What ranks of a distributed training tell each other; without one, what a single rank knows."""

from __future__ import annotations

from collections.abc import Sequence
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


def sum_over_ranks(parts: Sequence[Tensor], apart: bool = False) -> list[Tensor]:
    """Sums over all ranks of some tensors of one number format, with gradient, in one exchange.

    What is made of the sums must be the same on every rank. Then so is its gradient, no rank has to ask
    another for it, and the mean of the ranks' gradients, which distributed training takes, is that of
    one process. Where ranks make something of their own of the sums (``apart``), the gradients of all are
    summed, with one more exchange in the backward pass.

    >>> import torch
    >>> sum_over_ranks([torch.ones(2), torch.zeros(())])
    [tensor([1., 1.]), tensor(0.)]
    """
    if world_size() == 1:
        return list(parts)
    total = (_SumApart if apart else _Sum).apply(torch.cat([part.flatten() for part in parts]))
    sums = total.split([part.numel() for part in parts])
    return [own.view_as(part) for own, part in zip(sums, parts)]


def rank() -> int:
    """This rank's number; 0 without distributed training."""
    return dist.get_rank() if world_size() > 1 else 0


def drawn(generator: torch.Generator, rows: int, columns: int) -> Tensor:
    """This rank's rows of uniform numbers [rows, columns] that are drawn for the batch of all ranks.

    A DefaultSampler deals images to ranks in turn, and so are rows. The generator advances by one number
    however many are drawn, so that ranks whose maps differ in size do not drift apart.

    >>> drawn(torch.Generator().manual_seed(0), 2, 3).shape
    torch.Size([2, 3])
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    own = torch.Generator().manual_seed(seed)
    return torch.rand(world_size() * rows, columns, generator=own)[rank() :: world_size()]


def gather_maps(maps: Sequence[Tensor]) -> list[Tensor]:
    """Some maps [B, C, H, W] of all ranks, without gradient; smaller ones are padded with zeros.

    Every rank gets the same tensors. There are two exchanges, however many maps: of shapes, and of all
    that is in them.

    >>> import torch
    >>> [whole.shape for whole in gather_maps([torch.ones(2, 3, 4, 4)])]
    [torch.Size([2, 3, 4, 4])]
    """
    maps = [own.detach() for own in maps]
    if world_size() == 1:
        return maps
    shapes = torch.stack(_gather(torch.tensor([m.shape for m in maps], device=maps[0].device)))
    sizes = shapes.prod(2).tolist()
    content = torch.cat([own.flatten() for own in maps])
    most = max(sum(counts) for counts in sizes)
    ranks = [
        [flat.view(shape) for flat, shape in zip(own[: sum(counts)].split(counts), its)]
        for own, counts, its in zip(
            _gather(F.pad(content, (0, most - len(content)))), sizes, shapes.tolist()
        )
    ]
    return [joined(level) for level in zip(*ranks)]


def gather_rows(rows: Sequence[Tensor]) -> list[Tensor]:
    """Some tensors [B, D] with a row for each image, those of all ranks one after the other, with gradient.

    What is made of them must be the same on every rank; see :func:`sum_over_ranks`. Two exchanges for all.

    >>> import torch
    >>> [whole.shape for whole in gather_rows([torch.ones(2, 3), torch.ones(2, 1)])]
    [torch.Size([2, 3]), torch.Size([2, 1])]
    """
    if world_size() == 1:
        return list(rows)
    flat = torch.cat(list(rows), 1)
    counts = torch.cat(_gather(torch.tensor([len(flat)], device=flat.device))).tolist()
    own = F.pad(flat, (0, 0, 0, max(counts) - len(flat)))
    empty = torch.zeros_like(own)
    slots = torch.stack([own if r == rank() else empty for r in range(world_size())])
    (total,) = sum_over_ranks([slots])
    whole = torch.cat([part[:count] for part, count in zip(total, counts)])
    return list(whole.split([part.shape[1] for part in rows], 1))


def joined(maps: Sequence[Tensor]) -> Tensor:
    """Maps of several batches as one, the smaller ones padded with zeros.

    >>> import torch
    >>> joined([torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 2)])[0]
    tensor([[[1., 0.]]])
    """
    height, width = (max(m.shape[i] for m in maps) for i in (2, 3))
    return torch.cat([F.pad(m, (0, width - m.shape[3], 0, height - m.shape[2])) for m in maps])


def on_any_rank(*true: bool) -> list[bool]:
    """Whether each of some things is true on any rank, in one exchange.

    >>> on_any_rank(False, True)
    [False, True]
    """
    if world_size() == 1 or not true:
        return list(true)
    device = 'cuda' if dist.get_backend() == 'nccl' else 'cpu'
    flags = torch.tensor(true, dtype=torch.float32, device=device)
    dist.all_reduce(flags)
    return (flags > 0).tolist()


def any_over_ranks(flags: Tensor) -> Tensor:
    """Whether each of some flags (0 or 1) is set on any rank; nothing is read from the device.

    >>> import torch
    >>> any_over_ranks(torch.tensor([0.0, 1.0]))
    tensor([0., 1.])
    """
    if world_size() == 1:
        return flags
    flags = flags.clone()
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return flags


def uploaded(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, which need not be idle for that.

    >>> import torch
    >>> uploaded(torch.ones(1), torch.device('cpu'))
    tensor([1.])
    """
    if tensor.device == device or tensor.device.type != 'cpu':
        return tensor.to(device)
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor).to(device, non_blocking=True)


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
    """The sum over ranks; its gradient is that of one rank as often, because all have the same."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * world_size()


class _SumApart(_Sum):
    """The sum over ranks, of which each makes something of its own; its gradient is the sum of theirs."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _gather(own: Tensor) -> list[Tensor]:
    """A tensor of one shape from every rank."""
    parts = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(parts, own)
    return parts
