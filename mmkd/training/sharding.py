"""Weights spread over the ranks: PyTorch's FSDP2 under mmengine's Runner.

A sharded model's parameters are DTensors of which each rank holds a part. Shards are made when the Runner
has built everything and loaded every checkpoint, so that nothing else needs to know of them.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from ..collectives import gather_objects, local_part, rank, world_size
from ..core.distiller import Distiller
from ..core.teacher import Teacher
from ..errors import InputError, refuse_other, refuse_unknown
from ..registry import HOOKS, MODEL_WRAPPERS
from .method_optimizers import DistillationHook

TEACHERS = ('whole', 'shard')


@dataclass
class Sharding:
    """How a model is to be sharded; see :class:`FullyShard`."""

    teacher: str
    smallest: int
    reshard_after_forward: bool


@MODEL_WRAPPERS.register_module()
class FullyShard:
    """In place of DDP: each rank holds a share of the weights (``model_wrapper_cfg`` of a config).

    Gradients and the optimiser's state are shared out likewise. The model stays what it is, without a
    wrapper around it; :class:`mmkd.ShardingHook` shards it when training begins.

    Args:
        module: the model.
        teacher: ``whole``: every rank holds the teachers; ``shard``: a share of them.
        smallest: blocks of fewer parameters are sharded together with what surrounds them.
        reshard_after_forward: whether a block's weights are given back between forward and backward:
            less memory, one more gathering.
    """

    def __new__(  # type: ignore[misc]  # noqa: D102
        cls,
        module: nn.Module,
        teacher: str = 'whole',
        smallest: int = 1_000_000,
        reshard_after_forward: bool = True,
        **unknown: Any,
    ) -> nn.Module:
        refuse_unknown('model_wrapper_cfg', unknown, [field.name for field in fields(Sharding)])
        refuse_other('model_wrapper_cfg.teacher', teacher, TEACHERS)
        if not isinstance(smallest, int) or smallest < 1:
            raise InputError(
                f'model_wrapper_cfg.smallest={smallest!r}; needed: a whole number of parameters from 1 on'
            )
        if not isinstance(reshard_after_forward, bool):
            raise InputError(
                f'model_wrapper_cfg.reshard_after_forward={reshard_after_forward!r}; needed: True or False'
            )
        if not hasattr(torch.distributed.fsdp, 'fully_shard'):
            raise InputError(
                f'model_wrapper_cfg: mmkd.FullyShard needs PyTorch 2.6 or later, this is {torch.__version__}; '
                'leave model_wrapper_cfg out (DDP)'
            )
        teachers = module.distillation.teachers if isinstance(module, Distiller) else {}
        for name, one in teachers.items():
            if teacher == 'shard' and one.form.compile:
                raise InputError(
                    f'model_wrapper_cfg.teacher=shard: teacher {name!r} is compiled, and a compiled teacher '
                    'cannot be sharded; set its compile=False, or model_wrapper_cfg.teacher=whole'
                )
            if teacher == 'shard' and one.cache is not None:
                raise InputError(
                    f'model_wrapper_cfg.teacher=shard: teacher {name!r} has a cache, and ranks that find their '
                    'images in it would leave the others waiting; leave cache out, or set '
                    'model_wrapper_cfg.teacher=whole'
                )
        for name, method in (
            module.distillation.methods.items() if isinstance(module, Distiller) else ()
        ):
            if method.share is not None:
                raise InputError(
                    f"methods.{name}: weight='auto' runs parts of the backward pass by themselves, which "
                    'sharded weights do not allow; give a number, or leave model_wrapper_cfg out'
                )
        module.sharding = Sharding(teacher, smallest, reshard_after_forward)  # type: ignore[assignment]
        module.train_step = _not_yet  # type: ignore[assignment]
        return module


def shard(
    model: nn.Module, options: Sharding, optimizers: Iterable[Optimizer], averages: Iterable[Any]
) -> None:
    """Shard a model, with its optimisers, its averages (EMA) and, if asked, its teachers.

    Every rank must hold the same weights.
    """
    scalars = _lengthen(model)
    before = dict(model.named_parameters())
    _fully_shard(model, model, options)
    after = dict(model.named_parameters())
    _mark(after, scalars)
    new = {old: after[name] for name, old in before.items()}
    for optimizer in optimizers:
        _exchange(optimizer, new)
    for average in averages:
        _share_average(average, after)
    if isinstance(model, Distiller):
        # both would run parts of the backward too early
        model.distillation.check_gradients, model.distillation.shares.every = False, 0
        for teacher in model.distillation.teachers.values() if options.teacher == 'shard' else []:
            _shard_teacher(teacher, options)


@contextmanager
def whole_states(holders: Iterable[Any]) -> Iterator[None]:
    """Let ``state_dict()`` of modules and optimisers give whole tensors, on the first rank, which saves.

    All ranks must come here.
    """
    holders = list(holders)
    for holder in holders:
        whole = _whole_state(holder)
        holder.state_dict = lambda *_, whole=whole, **__: whole
    try:
        yield
    finally:
        for holder in holders:
            del holder.state_dict


def share_of(model: nn.Module) -> int:
    """How many bytes of a model's parameters this rank holds."""
    return sum(local_part(p).nbytes for p in model.parameters())


# -- parts -----------------------------------------------------------------------------------------


def _not_yet(*_: Any, **__: Any) -> None:
    raise InputError(
        'model_wrapper_cfg: mmkd.FullyShard needs the hook that shards; tools/train.py adds it, elsewhere: '
        "custom_hooks=[dict(type='mmkd.ShardingHook')]"
    )


def _fully_shard(root: nn.Module, model: nn.Module, options: Sharding) -> None:
    """Shard a model's blocks, and with the root what is in none of them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh: Any = init_device_mesh(next(model.parameters()).device.type, (world_size(),))
    for block in blocks(model, options.smallest):
        fully_shard(block, mesh=mesh, reshard_after_forward=options.reshard_after_forward)
    # only a frozen root gives its weights back after the forward: a backward would need them at once
    fully_shard(root, mesh=mesh, reshard_after_forward=None if root is model else True)


def blocks(model: nn.Module, smallest: int) -> list[nn.Module]:
    """The blocks that are sharded one by one, inner ones first: large ones of what a model lists.

    What is listed in a Sequential or a ModuleList is run by calling it, which gathers its weights. What
    several blocks share, and all else, is gathered for the whole step.

    >>> block = lambda: nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 1))
    >>> model = nn.ModuleDict({'layers': nn.ModuleList([block(), block()]), 'head': nn.Linear(10, 10)})
    >>> [sum(p.numel() for p in b.parameters()) for b in blocks(model, 121)]
    [121, 121]
    """
    everywhere = model.named_modules(remove_duplicate=False)
    owners = Counter(id(p) for _, module in everywhere for p in module._parameters.values())
    taken: set[int] = set()
    found = []
    listed = (nn.Sequential, nn.ModuleList)
    entries = [b for m in model.modules() if isinstance(m, listed) for b in m.children()]
    for block in dict.fromkeys(reversed(entries)):
        free = {id(p): p.numel() for p in block.parameters() if id(p) not in taken}
        shared = any(owners[id(p)] > 1 for p in block.parameters())
        lists = isinstance(block, (nn.ModuleList, nn.ModuleDict))
        if not shared and not lists and sum(free.values()) >= smallest:
            taken |= free.keys()
            found.append(block)
    return found


def _shard_teacher(teacher: Teacher, options: Sharding) -> None:
    from torch.distributed.fsdp import register_fsdp_forward_method

    if not teacher.settled:
        teacher.take(teacher.form)  # what is sharded cannot be fused or converted any more
    _lengthen(teacher.model)
    _fully_shard(teacher, teacher.model, options)
    register_fsdp_forward_method(teacher, 'observe')


def _share_average(average: Any, shares: Mapping[str, nn.Parameter]) -> None:
    """Share an averaged model out as the model is."""
    module = average.module
    scalars = _lengthen(module)
    for name, parameter in list(module.named_parameters()):
        holder, _, last = name.rpartition('.')
        share = nn.Parameter(_share(parameter.data, shares[name]), requires_grad=False)
        setattr(module.get_submodule(holder), last, share)
    _mark(dict(module.named_parameters()), scalars)
    average.avg_parameters = (
        module.state_dict() if average.update_buffers else dict(module.named_parameters())
    )


def _exchange(optimizer: Optimizer, new: Mapping[Any, nn.Parameter]) -> None:
    """Let an optimiser train the shares; its state is shared out with them."""
    for group in optimizer.param_groups:
        group['params'] = [new.get(p, p) for p in group['params']]
    states: dict[Any, Any] = {}
    for old, state in optimizer.state.items():
        parameter: Any = new.get(old, old)
        states[parameter] = {k: _share_state(k, v, parameter) for k, v in state.items()}
    optimizer.state = defaultdict(dict, states)


def _share_state(name: str, value: Any, parameter: nn.Parameter) -> Any:
    if not isinstance(value, Tensor) or name == 'step':
        return value
    if _was_scalar(parameter) and value.dim() == 0:
        value = value.reshape(1)
    return _share(value, parameter) if value.shape == parameter.shape else value


def _share(value: Tensor, like: Any) -> Tensor:
    """This rank's share of a tensor that is whole on all ranks."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


# -- whole again -----------------------------------------------------------------------------------


def _whole_state(holder: Any) -> dict[str, Any]:
    """What ``state_dict()`` would give without shards; on other ranks than the first, empty."""
    state = holder.state_dict()
    found: dict[str, Any]
    if isinstance(holder, nn.Module):
        scalars = {name for name, p in holder.named_parameters() if _was_scalar(p)}
        found = OrderedDict((name, _whole(v, name in scalars)) for name, v in state.items())
    else:
        groups = getattr(holder, 'optimizer', holder).param_groups
        parameters = [p for group in groups for p in group['params']]
        found = {**state, 'state': {}}
        for number, values in state['state'].items():
            scalar = _was_scalar(parameters[number])
            found['state'][number] = {k: _whole(v, scalar) for k, v in values.items()}
    return found if rank() == 0 else {}


def _whole(value: Any, scalar: bool) -> Any:
    if not hasattr(value, 'full_tensor'):
        return value
    whole = value.full_tensor().cpu()
    return whole.reshape(()) if scalar else whole


# -- parameters without a dimension ----------------------------------------------------------------


def _lengthen(model: nn.Module) -> list[str]:
    """Give parameters without a dimension one of length 1, which can be sharded; their names."""
    scalars = {name: p for name, p in model.named_parameters() if p.dim() == 0}
    for parameter in scalars.values():
        parameter.data = parameter.data.reshape(1)
    return list(scalars)


def _mark(parameters: Mapping[str, nn.Parameter], scalars: Iterable[str]) -> None:
    for name in scalars:
        parameters[name].was_scalar = True  # type: ignore[attr-defined]


def _was_scalar(parameter: Tensor) -> bool:
    return getattr(parameter, 'was_scalar', False)


@HOOKS.register_module()
class ShardingHook(Hook):
    """Shards the model when training begins, and gathers it for checkpoints.

    Everything before, initial weights and resuming included, is as without shards; checkpoints are whole,
    so a training can be resumed with shards or without.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Shard the model, its optimisers and averages."""
        model: Any = runner.model
        options: Sharding | None = vars(model).pop('sharding', None)
        if options is None:
            return
        refuse_uneven_validation(runner)
        del model.train_step
        wrapper: Any = runner.optim_wrapper
        wrappers = list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        own = [
            o
            for h in runner.hooks
            if isinstance(h, DistillationHook)
            for o in h.optimizers.values()
        ]
        averages = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
        shard(model, options, [w.optimizer for w in wrappers] + own, averages)
        save = runner.save_checkpoint

        def save_whole(*args: Any, **kwargs: Any) -> None:
            with whole_states([model, *wrappers, *own, *averages]):
                save(*args, **kwargs)

        runner.save_checkpoint = save_whole
        print_log(
            f'sharded: this rank holds {share_of(model) / 2**20:.1f} MiB of weights', 'current'
        )

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        """What is not in blocks stays gathered after a forward without a backward."""
        if hasattr(runner.model, 'reshard'):
            runner.model.reshard()


def refuse_uneven_validation(runner: Runner) -> None:
    """Stop if ranks would validate different numbers of batches, of which the last gathers alone."""
    if runner.val_loop is None:
        return
    counts = gather_objects(len(runner.val_dataloader))
    if len(set(counts)) > 1:
        raise InputError(
            f'val_dataloader: the ranks have {counts} batches, and a sharded model needs as many on each; '
            'set val_dataloader.sampler.round_up=True'
        )
