"""What tests run on several ranks; a module of its own, so that fresh processes can import it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mmkd.ratios import CKARatio


def on_ranks(work: Callable[..., Any], folder: Path, *arguments: Any, ranks: int = 2) -> list[Any]:
    """What ``work(rank, *arguments)`` gives on each rank of a gloo group."""
    mp.spawn(_one, (work, str(folder), ranks, arguments), nprocs=ranks)
    return [torch.load(folder / f'{rank}.pt') for rank in range(ranks)]


def _one(rank: int, work: Callable[..., Any], folder: str, ranks: int, arguments: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=ranks
    )
    torch.save(work(rank, *arguments), f'{folder}/{rank}.pt')
    dist.destroy_process_group()


def read_in_turn(rank: int, student: torch.Tensor, teacher: torch.Tensor) -> list[Any]:
    """Ratios of three global batches of four, then of maps that differ in width between ranks."""
    ratio = CKARatio()
    rng = torch.Generator()
    readings = []
    for step in range(3):
        mine = slice(4 * step + rank, 4 * step + 4, 2)
        readings += ratio([(student[mine], teacher[mine])], 0.0, rng)
    width = 4 if rank else 3
    readings += ratio([(student[:2, :, :, :width], teacher[:2, :, :, :width])], 0.0, rng)
    return [(r.ratio, r.cka, r.samples) for r in readings]
