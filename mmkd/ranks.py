"""Ranks of a distributed run: starting them on CPUs, and what methods need from each other."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from .errors import InputError

DDP = 'MMDistributedDataParallel'


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


def refuse_cpu_sync_bn(student: nn.Module) -> None:
    """Stop on CPU ranks if BatchNorms are to be synchronised, which torch and mmcv do on GPUs only."""
    if torch.cuda.is_available() or not (dist.is_available() and dist.is_initialized()):
        return
    places = [n for n, m in student.named_modules() if type(m).__name__ == 'SyncBatchNorm']
    if places:
        module = student.get_submodule(places[0])
        kind = 'SyncBN' if isinstance(module, nn.SyncBatchNorm) else 'MMSyncBN'
        raise InputError(
            f'norm_cfg=dict(type={kind!r}): {places[0]} of the student and {len(places) - 1} more; on '
            "CPU ranks nothing synchronises them: take type='BN' (of RTMDet also use_syncbn=False), frozen "
            "(the backbone's norm_eval=True) or each rank's own, or type='GN', or train without a launcher"
        )


def prepare_ranks(cfg: Config) -> None:
    """Tell torch of this rank; on machines without an accelerator also start gloo before the Runner.

    mmengine's launchers take the same port for every job. They select a CUDA device and give DDP device
    ids; both fail on a CPU. With a process group in place the Runner takes it as it is.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher == 'none' or dist.is_initialized():
        return
    os.environ.update(rank_variables(launcher, os.environ))
    if torch.cuda.is_available():
        return
    if cfg.get('sync_bn'):
        raise InputError(
            f'sync_bn={cfg.sync_bn!r}: on CPU ranks nothing synchronises BatchNorms; leave it out, and '
            "freeze them (the backbone's norm_eval=True) if all ranks shall see the same statistics"
        )
    dist.init_process_group('gloo')
    cfg.setdefault('model_wrapper_cfg', dict(type=DDP))
    if cfg.model_wrapper_cfg.setdefault('type', DDP) == DDP:
        cfg.model_wrapper_cfg.setdefault('broadcast_buffers', False)
        cfg.model_wrapper_cfg.device_ids = None


def leave_ranks() -> None:
    """End the process groups and their threads, which can abort the interpreter at its exit.

    A group's threads live as long as anything refers to it: the Runner and its wrapper of the model,
    which refer to each other.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()


def rank_variables(launcher: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What torch needs to know of this rank, from a launcher's variables.

    >>> rank_variables('slurm', {'SLURM_PROCID': '1', 'SLURM_NTASKS': '2', 'SLURM_LOCALID': '1',
    ...                          'SLURM_JOB_ID': '7', 'MASTER_ADDR': 'n1'})['MASTER_PORT']
    '20007'
    """
    if launcher == 'pytorch':
        return {}
    names = {
        'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
        'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
    }[launcher]
    missing = [name for name in names if name not in environment]
    if missing:
        raise InputError(
            f'--launcher {launcher}: {missing[0]} is not set; start with '
            + ('srun (tools/slurm_train.sh)' if launcher == 'slurm' else 'mpirun')
        )
    rank, size, local = (environment[name] for name in names)
    job = int(environment.get('SLURM_JOB_ID', '0'))
    return {
        'RANK': rank,
        'WORLD_SIZE': size,
        'LOCAL_RANK': local,
        'MASTER_ADDR': environment.get('MASTER_ADDR') or _first_node(environment),
        'MASTER_PORT': environment.get('MASTER_PORT') or str(20000 + job % 20000),
    }


def _first_node(environment: Mapping[str, str]) -> str:
    """The first host of a Slurm node list (``n[3-5,7],m1``), without asking ``scontrol``."""
    nodes = environment.get('SLURM_STEP_NODELIST') or environment.get('SLURM_NODELIST', '127.0.0.1')
    head = re.match(r'([^\[,]+)(?:\[([0-9]+))?', nodes)
    assert head is not None
    return head.group(1) + (head.group(2) or '')


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
