"""``--fast``: what makes the student's own training step faster and changes its numbers by rounding alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from ..collectives import gather_objects
from ..core.distiller import Distiller, plain_view, untouched_randomness
from ..core.forms import COMPILING, between, timed
from ..core.options import Checked
from ..core.schedules import iterations_left
from ..errors import InputError, reason_of
from ..family.taps import flatten
from ..registry import HOOKS
from .method_optimizers import bare

KEY = 'mmkd_fast'
"""Where a checkpoint keeps what was taken, so that a resume measures nothing."""
HOOK = 'mmkd.FastHook'
SECONDS = 4.0
"""That one comparison may take; compiling aside."""
ROUNDS = (2, 8)
"""The fewest and the most rounds of a comparison."""
MARGIN = 1.03
"""So many times as fast a step must be with something that is taken."""
TOLERANCE = 0.01
"""The relative error that loss and gradient may have."""
PARTS = ('backbone', 'neck')
"""What is compiled: heads loop over objects, whose number changes."""

Choice = dict[str, bool | None]
Step = Callable[[nn.Module], Tensor]


@HOOKS.register_module()
class FastHook(Checked, Hook):
    """Takes what makes the student's step faster on this machine; what ``--fast`` adds to a config.

    In the first iteration copies of the student train on its batch, in turn with and without. Random
    generators, the student and the methods do not notice. On several ranks the first one decides. What was
    taken is written into the dumped config and into every checkpoint; those stay plain.

    Args:
        channels_last: the student's maps and weights lie channels last in memory; None: if that gains.
        fused: the student's optimiser updates all in one pass (``fused=True`` of torch's); None: if that gains.
        compile: backbone and neck are compiled, for the first size of batch; None: if that gains, and pays
            back within the training.

    >>> FastHook(channels_last=True).choice
    {'channels_last': True, 'fused': None, 'compile': None}
    """

    priority = 'VERY_HIGH'

    def __init__(
        self,
        channels_last: bool | None = None,
        fused: bool | None = None,
        compile: bool | None = None,
    ) -> None:
        self.choice: Choice = dict(channels_last=channels_last, fused=fused, compile=compile)
        self.settled = False

    def before_run(self, runner: Runner) -> None:
        """Refuse trainings whose weights are not where a copy could find them."""
        wrapper = str((runner.cfg.get('model_wrapper_cfg') or {}).get('type'))
        if 'Full' in wrapper:  # FullyShard, MMFullyShardedDataParallel
            raise InputError(
                f'FastHook (--fast): model_wrapper_cfg.type={wrapper}: weights in shards keep their layout '
                'and their optimizer; leave one of the two out'
            )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """A resumed training takes what was taken."""
        for name, value in checkpoint.get(KEY, {}).items() if runner._resume else ():
            if self.choice[name] is None:
                self.choice[name] = value

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Before the first iteration: settle it."""
        if self.settled:
            return
        self.settled = True
        measured = None in self.choice.values()
        told = settle(self.choice, bare(runner), runner.optim_wrapper, data_batch)
        print_log(f'fast: {told}', 'current')
        if measured:
            self._write(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Save what was taken; tensors are saved in the layout that they have without it."""
        if not self.settled:
            return
        checkpoint[KEY] = dict(self.choice)
        for name, value in checkpoint['state_dict'].items():
            checkpoint['state_dict'][name] = laid_plain(value)
        if 'optimizer' in checkpoint:
            checkpoint['optimizer'] = laid_plain(checkpoint['optimizer'])

    @master_only
    def _write(self, runner: Runner) -> None:
        for hook in runner.cfg.get('custom_hooks') or ():
            if hook.get('type') in (HOOK, 'FastHook'):
                hook.update(self.choice)
                runner.dump_config()


def settle(choice: Choice, model: nn.Module, wrapper: Any, batch: Any) -> str:
    """Decide what is open in a choice, bring a model and its optimiser into that form, and say so.

    Args:
        choice: what is given, by name; None: open. It is filled in place.
        model: a student, distilled or not.
        wrapper: its optimiser's wrapper.
        batch: what its data preprocessor takes.
    """
    student = plain_view(model) if isinstance(model, Distiller) else model
    methods = model.distillation.methods if isinstance(model, Distiller) else {}
    places = [tap.at for method in methods.values() for tap in method.student_taps]
    if isinstance(wrapper, OptimWrapperDict):
        choice.update({name: value or False for name, value in choice.items()})
        return 'several optimizers: nothing is taken'
    trial = Trial(model, wrapper, batch, next(student.parameters()).device.type)
    notes = {}
    if choice['channels_last'] is None:
        notes['channels_last'] = trial.decide(choice, 'channels_last', lay_channels_last)
    if choice['channels_last']:
        lay_channels_last(student)
        lay_states(wrapper.optimizer)
    notes['fused'] = decide_fused(choice, wrapper.optimizer, trial.device)
    if choice['fused']:
        fuse(wrapper.optimizer)
        wrapper.optimizer.register_step_pre_hook(lay_gradients)
    notes['compile'] = _decide_compile(choice, trial, places)
    if choice['compile']:
        compile_parts(student, places)
    return told(choice, notes)


class Trial:
    """Copies of a student that train on one batch in turn; all ranks together.

    Attributes:
        device: ``cpu`` or ``cuda``.
        seconds: of a plain step, once it is known.
    """

    def __init__(self, model: nn.Module, wrapper: Any, batch: Any, device: str) -> None:
        self.model, self.wrapper, self.batch, self.device = model, wrapper, batch, device
        self.seconds = 0.0

    def decide(self, choice: Choice, name: str, change: Callable[[nn.Module], Any]) -> str:
        """Settle one open thing by a comparison, and say what came out."""
        gain, why = gather_objects(self._gain(change))[0]
        choice[name] = gain >= MARGIN
        return why

    def attempt(self, change: Callable[[nn.Module], Any]) -> None:
        """Train a changed copy once."""
        twin = copy.deepcopy(self.model)
        change(twin)
        self.step(twin)

    def step(self, twin: Any) -> Tensor:
        """Loss and gradient of one step, with the same random numbers each time."""
        twin.zero_grad()
        with untouched_randomness():
            with self.wrapper.optim_context(twin):
                data = twin.data_preprocessor(copy.deepcopy(self.batch), True)
                loss, _ = twin.parse_losses(twin._run_forward(data, mode='loss'))
            loss.backward()
        gradients = [p.grad.flatten() for p in twin.parameters() if p.grad is not None]
        return torch.cat([loss.detach().flatten(), *gradients])

    def _gain(self, change: Callable[[nn.Module], Any]) -> tuple[float, str]:
        try:
            plain, twin = copy.deepcopy(self.model), copy.deepcopy(self.model)
            change(twin)
            right, found = self.step(plain), self.step(twin)
            error = float((right - found).norm() / right.norm())
            self.seconds, other = interleaved(
                lambda: self.step(plain), lambda: self.step(twin), self.device
            )
        except Exception as failure:  # whatever cannot be had, the student trains without it
            return 0.0, reason_of(failure)
        if not error <= TOLERANCE:
            return 0.0, f'loss and gradient differ by {error:.1e}'
        gain = self.seconds / other
        return gain, f'{gain:.2f} times as fast'


def interleaved(
    plain: Callable[[], Any], other: Callable[[], Any], device: str
) -> tuple[float, float]:
    """The least seconds of two functions that are run in turn, on every rank as often as on the first."""
    seconds = timed(plain, device)
    few, many = ROUNDS
    rounds = gather_objects(max(few, min(many, int(SECONDS / (2 * seconds)))))[0]
    pairs = [(timed(plain, device), timed(other, device)) for _ in range(rounds)]
    first, second = (min(times) for times in zip(*pairs))
    return first, second


def decide_fused(choice: Choice, optimizer: Optimizer, device: str) -> str:
    """Settle whether an optimiser is run fused, by copies of it and of its parameters."""
    kind = type(optimizer).__name__
    if 'fused' not in optimizer.defaults:
        if choice['fused']:
            raise InputError(f'FastHook: fused=True: {kind} has no fused form; leave it out')
        choice['fused'] = False
        return f'{kind} has no fused form'
    groups = optimizer.param_groups
    if choice['fused'] is None and any(group['fused'] or group['foreach'] for group in groups):
        choice['fused'] = False
        return f'{kind} runs in the form that the config gives'
    if choice['fused'] is None:
        gain, why = gather_objects(_fused_gain(optimizer, device))[0]
        choice['fused'] = gain >= MARGIN
        return why
    return ''


def _fused_gain(optimizer: Optimizer, device: str) -> tuple[float, str]:
    try:
        plain, twin = copy.deepcopy(optimizer), copy.deepcopy(optimizer)
        fuse(twin)
        for own in (plain, twin):
            for parameter in parameters_of(own):
                parameter.grad = parameter.detach().clone()
        plain.step(), twin.step()
        pairs = [(timed(plain.step, device), timed(twin.step, device)) for _ in range(ROUNDS[1])]
    except Exception as failure:
        return 0.0, reason_of(failure)
    right, found = (
        torch.cat([p.detach().flatten() for p in parameters_of(o)]) for o in (plain, twin)
    )
    if not (error := float((right - found).norm() / right.norm())) <= TOLERANCE:
        return 0.0, f'weights differ by {error:.1e}'
    first, second = (min(times) for times in zip(*pairs))
    return first / second, f'{first / second:.2f} times as fast an update'


def _decide_compile(choice: Choice, trial: Trial, places: list[str]) -> str:
    def change(twin: nn.Module) -> None:
        compile_parts(twin, places)

    if choice['compile']:
        try:
            trial.attempt(change)
        except Exception as failure:
            raise InputError(
                f'FastHook: compile=True: {reason_of(failure)}; leave it out'
            ) from failure
    if choice['compile'] is not None:
        return ''
    if not gather_objects(iterations_left() * trial.seconds / 2 >= 10 * COMPILING)[0]:
        choice['compile'] = False
        return 'would not pay back within this training'
    return trial.decide(choice, 'compile', change)


def told(choice: Choice, notes: Mapping[str, str]) -> str:
    """One line: what is taken with its gain, and why the rest is not.

    >>> told(dict(channels_last=True, fused=False), dict(channels_last='1.2 times as fast', fused='slower'))
    'takes channels_last (1.2 times as fast); not fused (slower)'
    """

    def listed(wanted: bool) -> str:
        names = [name for name, value in choice.items() if value is wanted]
        return ', '.join(f'{n} ({notes[n]})' if notes.get(n) else n for n in names)

    without = listed(False)
    return f'takes {listed(True) or "nothing"}' + (f'; not {without}' if without else '')


def lay_channels_last(model: nn.Module) -> None:
    """Let a student's weights lie channels last, and with them its maps; a method's stay as they are."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def lay_states(optimizer: Optimizer) -> None:
    """Let an optimiser's states lie as their parameters do; see :func:`lay_gradients`."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def lay_gradients(optimizer: Optimizer, *_: Any) -> None:
    """Let gradients lie as their parameters do: torch's fused updates on CPUs read memory in its order."""
    for parameter in parameters_of(optimizer):
        gradient = parameter.grad
        if gradient is not None and gradient.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(gradient)


def laid_plain(value: Any) -> Any:
    """A nest of dicts, lists and tuples with its tensors row by row in memory.

    >>> laid_plain({'w': [torch.zeros(1, 2, 2, 2).to(memory_format=torch.channels_last)]})['w'][0].stride()
    (8, 4, 2, 1)
    """
    if isinstance(value, Tensor):
        return value.contiguous()
    if isinstance(value, Mapping):
        return {key: laid_plain(item) for key, item in value.items()}
    return type(value)(map(laid_plain, value)) if isinstance(value, (list, tuple)) else value


def fuse(optimizer: Optimizer) -> None:
    """Let an optimiser that exists update in one pass.

    >>> sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    >>> fuse(sgd)
    >>> sgd.param_groups[0]['fused']
    True
    """
    for group in optimizer.param_groups:
        group.update(fused=True, foreach=False)
    for parameter, state in optimizer.state.items():
        if isinstance(state.get('step'), Tensor):  # which a plain one keeps on the host
            state['step'] = state['step'].to(parameter.device)


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """All that an optimiser trains."""
    return [p for group in optimizer.param_groups for p in group['params'] if p.requires_grad]


def compile_parts(model: nn.Module, places: list[str]) -> None:
    """Compile a student's backbone and neck, as far as no tap lies inside."""
    for name in PARTS:
        part = getattr(model, name, None)
        inside = [place for place in places if place.startswith(f'{name}.')]
        if isinstance(part, nn.Module):
            for whole in between(part, inside, name) if inside else [part]:
                vars(whole)['forward'] = Compiled(whole)


class Compiled:
    """A module's forward, compiled for training on the first shapes that it meets.

    Other shapes and evaluation take the plain one. It sits beside the module, whose parameters keep their
    names; a copy of the module has the plain forward.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.plain = module, module.forward
        self.shapes: list[torch.Size] = []
        self.compiled = torch.compile(module.forward, dynamic=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        if not self.module.training:
            return self.plain(*args, **kwargs)
        shapes = [tensor.shape for tensor in flatten([args, kwargs])]
        self.shapes = self.shapes or shapes
        return (self.compiled if shapes == self.shapes else self.plain)(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.plain, memo)
