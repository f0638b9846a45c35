"""The processes of a distributed run: told who they are, started on CPUs, and ended."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Mapping

import torch
import torch.distributed as dist
from mmengine.config import Config

from ..errors import InputError

STARTERS = dict(
    pytorch='torchrun (tools/dist_train.sh)', slurm='srun (tools/slurm_train.sh)', mpi='mpirun'
)
DDP = 'MMDistributedDataParallel'


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
    names = {
        'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
        'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
        'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
    }[launcher]
    missing = [name for name in names if name not in environment]
    if missing:
        raise InputError(
            f'--launcher {launcher}: {missing[0]} is not set; start with ' + STARTERS[launcher]
        )
    if launcher == 'pytorch':
        return {}
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
