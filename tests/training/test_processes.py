"""Ranks that are told who they are, from a launcher's variables, and ended."""

import os

import helpers as h
import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config

from mmkd.training.processes import leave_ranks, prepare_ranks, rank_variables

SLURM = dict(SLURM_PROCID='3', SLURM_NTASKS='4', SLURM_LOCALID='1', SLURM_JOB_ID='123')
MPI = dict(
    OMPI_COMM_WORLD_RANK='3', OMPI_COMM_WORLD_SIZE='4', OMPI_COMM_WORLD_LOCAL_RANK='1'
)  # fmt: skip


@pytest.mark.parametrize(
    ('nodes', 'first'),
    [('n1', 'n1'), ('n[3-5,7],m1', 'n3'), ('gpu-a[001-004]', 'gpu-a001'), ('a,b', 'a')],
)
def test_slurm_variables_become_torchs(nodes, first):
    found = rank_variables('slurm', dict(**SLURM, SLURM_NODELIST=nodes))
    assert found == dict(
        RANK='3', WORLD_SIZE='4', LOCAL_RANK='1', MASTER_ADDR=first, MASTER_PORT='20123'
    )


def test_the_nodes_of_the_step_come_before_those_of_the_job():
    nodes = dict(SLURM_NODELIST='a1', SLURM_STEP_NODELIST='b[2-3]')
    assert rank_variables('slurm', {**SLURM, **nodes})['MASTER_ADDR'] == 'b2'


def test_mpi_variables_become_torchs():
    assert rank_variables('mpi', MPI) == dict(
        RANK='3', WORLD_SIZE='4', LOCAL_RANK='1', MASTER_ADDR='127.0.0.1', MASTER_PORT='20000'
    )


TORCH = dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0')


def test_torchs_own_launcher_has_said_all():
    assert rank_variables('pytorch', TORCH) == {}


def test_given_addresses_are_kept():
    found = rank_variables('slurm', dict(**SLURM, MASTER_ADDR='x', MASTER_PORT='1'))
    assert (found['MASTER_ADDR'], found['MASTER_PORT']) == ('x', '1')


def test_ports_of_jobs_that_follow_each_other_differ_and_are_free_ones():
    ports = [
        int(rank_variables('slurm', {**SLURM, 'SLURM_JOB_ID': str(job)})['MASTER_PORT'])
        for job in range(39_990, 40_010)
    ]
    assert len(set(ports)) == len(ports)
    assert all(20_000 <= port < 40_000 for port in ports)


@pytest.mark.parametrize(
    ('launcher', 'variables', 'start'),
    [('slurm', SLURM, 'srun'), ('mpi', MPI, 'mpirun'), ('pytorch', TORCH, 'torchrun')],
)
def test_missing_launcher_variables_are_named(launcher, variables, start):
    for missing in list(variables)[:3]:
        rest = {name: value for name, value in variables.items() if name != missing}
        text = h.message_of(rank_variables, launcher, rest)
        assert text.startswith(f'--launcher {launcher}: {missing} is not set; start with {start}')


def test_without_a_launcher_nothing_is_prepared():
    cfg, before = Config(dict(launcher='none', sync_bn='torch')), dict(os.environ)
    prepare_ranks(cfg)
    assert cfg.to_dict() == dict(launcher='none', sync_bn='torch')
    assert (dict(os.environ), dist.is_initialized()) == (before, False)


@pytest.fixture
def alone(monkeypatch):
    """As a launcher that starts one rank says it; the port is any that is free."""
    for name, value in dict(
        RANK=0, WORLD_SIZE=1, LOCAL_RANK=0, MASTER_ADDR='127.0.0.1', MASTER_PORT=0
    ).items():
        monkeypatch.setenv(name, str(value))
    yield
    leave_ranks()


def test_sync_bn_of_the_runner_is_answered_before_ranks_meet(alone):
    cfg = Config(dict(launcher='pytorch', sync_bn='torch'))
    text = h.message_of(prepare_ranks, cfg)
    assert not dist.is_initialized()
    assert text.startswith("sync_bn='torch': on CPU ranks nothing synchronises")


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        (None, dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None)),
        (
            dict(static_graph=True, broadcast_buffers=True),
            dict(
                type='MMDistributedDataParallel', static_graph=True, broadcast_buffers=True,
                device_ids=None,
            ),
        ),
        (dict(type='mmkd.FullyShard'), dict(type='mmkd.FullyShard')),
    ],
)  # fmt: skip
def test_cpu_ranks_meet_and_the_wrapper_asks_for_no_devices(given, expected, alone):
    cfg = Config(
        dict(launcher='pytorch', **({} if given is None else dict(model_wrapper_cfg=given)))
    )
    prepare_ranks(cfg)
    assert (dist.get_backend(), dist.get_world_size()) == ('gloo', 1)
    assert cfg.model_wrapper_cfg == expected
    prepare_ranks(cfg)  # they have met: nothing happens
    leave_ranks()
    assert not dist.is_initialized()


def test_ranks_on_gpus_have_the_address_and_port_of_their_job(monkeypatch):
    for name, value in dict(
        PROCID=1, NTASKS=2, LOCALID=1, JOB_ID=40123, STEP_NODELIST='n[3-5]'
    ).items():
        monkeypatch.setenv(f'SLURM_{name}', str(value))
    for name in ('MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = Config(dict(launcher='slurm'))
    prepare_ranks(cfg)
    assert (os.environ['MASTER_ADDR'], os.environ['MASTER_PORT']) == ('n3', '20123')
    assert not dist.is_initialized()  # that is the Runner's, with nccl
    assert cfg.to_dict() == dict(launcher='slurm')
