"""What tests run on several ranks; a module of its own, so that fresh processes can import it."""

from __future__ import annotations

import copy
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import binned  # noqa: F401  registers a head for configs that come from other processes
import helpers as h
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import HOOKS, MODELS, DefaultScope
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from mmkd.collectives import gather_maps, local_part
from mmkd.commands.train import train, training_config
from mmkd.errors import InputError
from mmkd.losses.pearson import pearson_distances
from mmkd.methods.dpk.ratios import CKARatio
from mmkd.training.method_optimizers import DistillationHook, bare
from mmkd.training.processes import leave_ranks
from mmkd.training.watch import Watch

DDP = dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None)
"""As ``tools/train.py`` sets it for CPU ranks."""


HEAVY = ['mmkd', 'mmdet.models', 'mmpretrain.models', 'mmseg.models']
"""What ranks need and is imported once, by the process that all ranks are forked from."""


def on_ranks(work: Callable[..., Any], folder: Path, *arguments: Any, ranks: int = 2) -> list[Any]:
    """What ``work(rank, *arguments)`` gives on each rank of a gloo group."""
    multiprocessing.set_forkserver_preload(HEAVY)
    given = (work, str(folder), ranks, arguments)
    mp.start_processes(_one, given, nprocs=ranks, start_method='forkserver')
    return [torch.load(folder / f'{rank}.pt') for rank in range(ranks)]


def _one(rank: int, work: Callable[..., Any], folder: str, ranks: int, arguments: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=ranks
    )
    torch.save(work(rank, *arguments), f'{folder}/{rank}.pt')
    leave_ranks()


@contextmanager
def fake_ranks(ranks: int = 2) -> Iterator[None]:
    """This process as the first of several ranks, of which the others do not exist and say what it says."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group('fake', rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def uneven_maps(rank: int) -> list[torch.Tensor]:
    """Two levels that differ in everything, and between ranks in images, height and width."""
    rng = torch.Generator().manual_seed(rank)
    shapes = [(rank + 1, 2, 3 + rank, 4), (rank + 1, 5, 2, 3 - rank)]
    return [torch.randn(shape, generator=rng) for shape in shapes]


def pearson_gradients(rank: int, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[Any]:
    """The distances of some pairs whose images ranks share unevenly, and the student's gradients."""
    mine = slice(None)
    if dist.is_initialized():
        mine = (slice(0, 3), slice(3, None))[rank]
    students = [student[mine].clone().requires_grad_() for student, _ in pairs]
    distances = pearson_distances([(s, t[mine]) for s, (_, t) in zip(students, pairs)])
    torch.stack(distances).sum().backward()
    return [[d.detach() for d in distances], [s.grad for s in students]]


def gathered(rank: int) -> list[torch.Tensor]:
    """What a rank knows of the uneven maps of all."""
    return gather_maps(uneven_maps(rank))


def watched(rank: int, iterations: int = 200) -> list[int]:
    """What ranks of different speed are told after each iteration; the second gets SIGTERM in the sixth."""
    watch, told = Watch(dist.group.WORLD), []
    for iteration in range(iterations):
        time.sleep(0.02 if rank else 0.002)
        told.append(watch.agreed(15 if rank and iteration >= 5 else 0))
        if told[-1]:
            break
    return told


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


def read_unevenly(rank: int, student: torch.Tensor, teacher: torch.Tensor) -> Any:
    """The alignments of two batches of which the first rank has three images in five."""
    mine = slice(None)
    if dist.is_initialized():
        first = 3 * len(student) // 5
        mine = (slice(0, first), slice(first, None))[rank]
    ratio, rng = CKARatio(), torch.Generator()
    readings = [ratio([(student[mine], teacher[mine])], 0.0, rng)[0] for _ in range(2)]
    return [number for reading in readings for number in (reading.cka, reading.samples)]


def distilled_gradients(
    rank: int, config: dict[str, Any], family: str, iterations: int = 3
) -> dict[str, Any]:
    """Log and gradients of the last of some iterations without steps; on two ranks under DDP.

    The global batch has four images; a rank takes every second one.
    """
    model, net, mine = built(rank, config)
    log: dict[str, Any] = {}
    for _ in range(iterations):
        model.zero_grad()
        batch = {k: v[mine] for k, v in _global_batch(family, 0).items()}
        total, log = model.parse_losses(net(**model.data_preprocessor(batch, True), mode='loss'))
        total.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {'log': {name: float(value) for name, value in log.items()}, 'gradients': gradients}


def trained(
    rank: int,
    configs: dict[str, Any],
    family: str,
    iterations: int,
    images: int = 4,
    **wrapper: Any,
) -> dict[str, Any]:
    """All weights after some iterations with each of several configs, as above.

    The global batch has so many images; ``wrapper`` are options of DDP.
    """
    results = {}
    hub = MessageHub.get_current_instance()
    hub.update_info('max_iters', iterations)
    for name, config in configs.items():
        model, net, mine = built(rank, config, **wrapper)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
        for iteration in range(iterations):
            hub.update_info('iter', iteration)
            batch = _global_batch(family, iteration, images)
            batch = {k: v[mine] for k, v in batch.items()}
            losses = net(**model.data_preprocessor(batch, True), mode='loss')
            optimizer.zero_grad()
            model.parse_losses(losses)[0].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
        state = model.state_dict().items()
        results[name] = {k: v for k, v in state if v.is_floating_point()}
    hub.update_info('max_iters', 0)  # nothing runs any more
    return results


def built(rank: int, config: dict[str, Any], **wrapper: Any) -> tuple[Any, Any, slice]:
    """A model, the same as it is run, and which images of the global batch are this rank's."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmkd'):
        model = MODELS.build(config)
    model.init_weights()
    h.freeze_statistics(model)
    if not dist.is_initialized():
        return model, model, slice(None)
    ranks = dist.get_world_size()
    net = MMDistributedDataParallel(model, broadcast_buffers=False, **wrapper)
    assert not net.find_unused_parameters
    return model, net, slice(rank, None, ranks)


def _global_batch(family: str, iteration: int, images: int = 4) -> dict[str, Any]:
    """In detectors all images have the same box, so that each rank has as many positives."""
    batch = h.raw_batch(family, ((96, 96),) * images, seed=iteration)
    for sample in batch['data_samples'] if family != 'classifier' else []:
        boxes = torch.tensor([[8.0, 8.0, 60.0, 50.0]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([1]))
    return batch


@HOOKS.register_module(force=True)  # pytest imports this module once more, for its doctests
class Holdings(Hook):
    """Notes how many bytes of each part this rank holds at the end."""

    found: ClassVar[list[dict[str, int]]] = []

    def after_train(self, runner: Runner) -> None:
        model = bare(runner)
        states = runner.optim_wrapper.optimizer.state.values()
        tensors = {
            'student': list(model.parameters()),
            'teacher': [p for t in model.distillation.teachers.values() for p in t.parameters()],
            'optimizer': [v for state in states for k, v in state.items() if k != 'step'],
        }
        held = {k: sum(local_part(v).nbytes for v in vs) for k, vs in tensors.items()}
        self.found.append(held)


def run_on_rank(rank: int, runs: list[tuple[Any, str, str | None]]) -> list[dict[str, int]]:
    """What ``tools/train.py`` does on this rank, for several configs with work dir and resume."""
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(dist.get_world_size()))
    for cfg, work_dir, resume in runs:
        cfg.custom_hooks.append(dict(type='Holdings'))
        train(training_config(cfg, work_dir=work_dir, resume=resume, launcher='pytorch'))
    return Holdings.found


def first_losses(rank: int, configs: dict[str, Any]) -> dict[str, Any]:
    """By config of a classifier: the first loss, or the answer that comes instead of it."""
    found: dict[str, Any] = {}
    for name, config in configs.items():
        try:
            model, net, mine = built(rank, config)
        except InputError as error:
            found[name] = str(error)
            continue
        model.train()
        batch = {k: v[mine] for k, v in _global_batch('classifier', 0).items()}
        losses = net(**model.data_preprocessor(batch, True), mode='loss')
        found[name] = model.parse_losses(losses)[0].item()
    return found


def run(rank: int, config: Any) -> dict[str, Any]:
    """What a Runner ends with: all weights, and how often each method's own optimiser has stepped.

    The batch size of the config is that of all ranks together.
    """
    cfg = copy.deepcopy(config)
    if dist.is_initialized():
        os.environ['LOCAL_RANK'] = str(rank)  # device_ids=None below is stronger
        cfg.launcher = 'pytorch'
        cfg.train_dataloader.batch_size //= dist.get_world_size()
        cfg.model_wrapper_cfg = DDP
    runner = Runner.from_cfg(cfg)
    model = runner.train()
    hook = next(hook for hook in runner.hooks if isinstance(hook, DistillationHook))
    return {
        'weights': {
            key.removeprefix('module.'): p.detach().clone() for key, p in model.named_parameters()
        },
        'steps': {
            method: {int(state['step']) for state in optimizer.state.values()}
            for method, optimizer in hook.optimizers.items()
        },
    }


def several(rank: int, jobs: Sequence[Any]) -> list[Any]:
    """What each of some ``(work, *arguments)`` gives."""
    return [work(rank, *arguments) for work, *arguments in jobs]
