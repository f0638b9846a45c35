"""The forms in which a teacher may run: same answers within a tolerance, less time."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..family.taps import Features, flatten

Precision = Literal['fp32', 'bf16', 'fp16']
PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
"""Number formats by the names that options have for them."""
Run = Callable[[nn.Module, 'Form'], Features]
"""Answers a batch by a model that has a form."""
MARGIN = 1.1
"""So many times as fast as the exact form another must be, or it is not worth a change of digits."""
REPEATS = 2
COMPILING = 60.0
"""Seconds that compiling may take."""


@dataclass(frozen=True)
class Form:
    """How a model is run.

    Attributes:
        fuse: BatchNorm is folded into the convolutions before it.
        channels_last: maps and weights lie channels last in memory.
        precision: of convolutions and matrix products.
        compile: whether what lies between taps is compiled.

    >>> str(Form()), str(Form(fuse=True, precision='bf16'))
    ('exact', 'fuse, bf16')
    """

    fuse: bool = False
    channels_last: bool = False
    precision: Precision = 'fp32'
    compile: bool = False

    def __str__(self) -> str:
        names = [name for name in ('fuse', 'channels_last', 'compile') if getattr(self, name)]
        names += [] if self.precision == 'fp32' else [self.precision]
        return ', '.join(names) or 'exact'

    def give(self, model: nn.Module, places: Collection[str]) -> nn.Module:
        """Bring a frozen model into this form, in place.

        Args:
            model: the model.
            places: the names of the modules that are tapped.
        """
        if self.fuse:
            from mmcv.cnn import fuse_conv_bn

            fuse_conv_bn(model)
        if self.precision != 'fp32':
            store_products(model, PRECISIONS[self.precision])
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for part in between(model, places) if self.compile else ():
            part.forward = OneShape(part.forward)
        return model


EXACT = Form()


@dataclass(frozen=True)
class Choice:
    """The form that was taken, and what was measured of it.

    Attributes:
        form: the form.
        model: the model in that form.
        gain: how many times as fast as the exact one it is.
        error: the largest relative error of a tapped tensor.
        seconds: of one batch.
        notes: what was found not to work.
    """

    form: Form
    model: nn.Module
    gain: float = 1.0
    error: float = 0.0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line.

        >>> print(Choice(Form(precision='bf16'), nn.Identity(), 2.5, 0.009))
        runs in the form bf16: 2.50 times as fast, answers within 9.0e-03
        """
        told = f'runs in the form {self.form}: {self.gain:.2f} times as fast, answers within {self.error:.1e}'
        return f'{told} ({"; ".join(self.notes)})' if self.notes else told


def fastest(
    model: nn.Module,
    run: Run,
    places: Collection[str],
    *,
    device: str,
    tolerance: float,
    seconds: float,
    passes: float,
) -> Choice:
    """Try a model's forms on one batch and take the first that is faster and whose answers are right.

    They are tried in a fixed order, the one that may gain most first. The model itself is left as it is.

    Args:
        model: the exact model.
        run: answers the batch.
        places: the names of the modules that are tapped.
        device: ``cpu`` or ``cuda``.
        tolerance: the largest relative error of any tapped tensor.
        seconds: after so many nothing further is tried, compiling aside.
        passes: how often the model will yet be run; compiling gains a quarter of that time or more, which must
            be what it may take.
    """
    start = time.perf_counter()
    right = run(model, EXACT)
    plain = Choice(EXACT, model, seconds=timed(lambda: run(model, EXACT), device))
    best, waiting, notes = plain, candidates(device), list[str]()
    while waiting and best is plain:
        form = waiting.pop(0)
        passes_left = (seconds + start - time.perf_counter()) / plain.seconds
        if passes_left < 3:
            notes.append(f'{form} was not tried for want of time')
            break
        repeats = REPEATS if passes_left > 2 * REPEATS + 1 else 1
        found = _tried(form, plain, run, places, device, right, repeats=repeats)
        if isinstance(found, str):
            notes.append(f'{form}: {found}')
        elif not found.error <= tolerance:
            notes.append(f'{form}: error {found.error:.1e}')
            waiting[:0] = [replace(form, fuse=False)] if form.fuse else []
        elif found.gain >= MARGIN:
            best = found
    if passes * best.seconds >= 5 * COMPILING:
        form = replace(best.form, compile=True)
        found = _tried(form, best, run, places, device, right, model)
        if isinstance(found, str):
            notes.append(f'{form}: {found}')
        elif found.error <= tolerance and best.seconds >= MARGIN * found.seconds:
            best = found
    return replace(best, notes=tuple(notes))


def candidates(device: str) -> list[Form]:
    """The forms to try, the one that may gain most first; compiled ones aside.

    >>> [str(form) for form in candidates('cpu')]
    ['fuse, channels_last, bf16', 'fuse, channels_last']
    """
    plain = Form(fuse=True, channels_last=True)
    lower: tuple[Precision, ...] = ('fp16', 'bf16') if device == 'cuda' else ('bf16',)
    return [*(replace(plain, precision=precision) for precision in lower), plain]


def _tried(
    form: Form,
    best: Choice,
    run: Run,
    places: Collection[str],
    device: str,
    right: Features,
    exact: nn.Module | None = None,
    repeats: int = REPEATS,
) -> Choice | str:
    """What a form is worth, timed in turn with the best before it; or why it cannot be run."""
    try:
        twin = form.give(copy.deepcopy(exact or best.model), places)
        error = largest_error(run(twin, form), right)
        before, own = float('inf'), float('inf')
        for _ in range(repeats):
            before = min(before, timed(lambda: run(best.model, best.form), device))
            own = min(own, timed(lambda: run(twin, form), device))
            if own > 2 * before:  # as bf16 is where the processor lacks it
                break
    except Exception as failure:  # whatever a form cannot do, the teacher runs without it
        return f'{type(failure).__name__}: {str(failure).strip().partition(chr(10))[0][:200]}'
    ratio = before / own
    return Choice(form, twin, best.gain * ratio, error, best.seconds / ratio)


def timed(function: Callable[[], Any], device: str) -> float:
    """Seconds that a function takes, to the end of what it starts on a device."""
    wait = getattr(torch, device).synchronize if device != 'cpu' else lambda: None
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start


def largest_error(found: Features, right: Features) -> float:
    """The largest ``|x - y| / |y|`` of any tapped tensor; infinite where shapes differ.

    >>> net = nn.Sequential(nn.Identity())
    >>> from mmkd.family.taps import capture
    >>> def seen(x):
    ...     with capture(net, [('0', 'output')]) as features: net(x)
    ...     return features
    >>> largest_error(seen(torch.ones(2)), seen(2 * torch.ones(2)))
    0.5
    """
    ours, theirs = found.tensors(), right.tensors()
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        return float('inf')
    errors = [_error(a, b) for a, b in zip(ours, theirs) if b.numel() and b.is_floating_point()]
    return max(errors, key=lambda e: float('inf') if e != e else e, default=0.0)


def _error(found: Tensor, right: Tensor) -> float:
    found, right = found.double(), right.double()
    return float((found - right).norm() / right.norm().clamp_min(1e-12))


def store_products(model: nn.Module, precision: torch.dtype) -> None:
    """Keep the weights of convolutions and linear layers as autocast would make them at every pass.

    >>> net = nn.Sequential(nn.Linear(1, 1), nn.LayerNorm(1))
    >>> store_products(net, torch.bfloat16)
    >>> [p.dtype for p in net.parameters()][::2]
    [torch.bfloat16, torch.float32]
    """
    for module in model.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(precision)


def between(model: nn.Module, places: Collection[str], name: str = '') -> Iterator[nn.Module]:
    """The largest parts of a model in which no tap lies, but at their borders.

    >>> model = nn.Sequential(nn.Sequential(nn.ReLU(), nn.ReLU()), nn.ReLU())
    >>> [type(part).__name__ for part in between(model, ['0.0'])]
    ['ReLU', 'ReLU', 'ReLU']
    """
    for own, part in model.named_children():
        full = f'{name}.{own}' if name else own
        lists = (
            type(part).forward is nn.Module.forward
        )  # a ModuleList or the like, which is not run
        if lists or any(place.startswith(f'{full}.') for place in places):
            yield from between(part, places, full)
        else:
            yield part


class OneShape:
    """A forward that is compiled for the first shapes it meets; others take the plain one.

    So that images of many sizes never compile anew.
    """

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.plain, self.shapes = forward, list[torch.Size]()
        self.compiled = torch.compile(forward, dynamic=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        shapes = [tensor.shape for tensor in flatten([args, kwargs])]
        if not self.shapes:
            self.shapes = shapes
            from torch._inductor import config as inductor_config

            # as an option of torch.compile it would come after weights have become inputs, and do nothing
            with inductor_config.patch(freezing=True):
                return self.compiled(*args, **kwargs)
        forward = self.compiled if shapes == self.shapes else self.plain
        return forward(*args, **kwargs)
