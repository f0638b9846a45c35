"""Taps: places in a model, by plain module name, and the capture of what passes there.

A tap reads; it never edits the model. While a capture is open the ``forward`` of each tapped module
is wrapped, so a module is seen whether it is called as ``module(x)`` or as ``module.forward(x)``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor, nn

from ..errors import InputError, nearest, refuse_other, refuse_unknown

Place = tuple[str, str]
"""A module's name and what is read there, one of :data:`SOURCES`."""
SOURCES = ('output', 'input', 'call')
"""What a module gives; what it is given; the same by name, of which ``item`` picks one."""


@dataclass(frozen=True)
class Tap:
    """A place in a model, by its plain module name, optionally with levels.

    What a module returns is flattened to a list of tensors, in order and over repeated calls (a
    head that runs once per pyramid level gives one tensor per level). ``levels`` picks from that
    list; ``item`` picks one element of the returned tuple, or one argument of a ``call``, before it is
    flattened.

    >>> Tap.parse('neck')
    Tap(at='neck', levels=None, item=None, source='output')
    >>> Tap.parse(dict(at='neck', levels=[1, 2])).levels
    (1, 2)
    """

    at: str
    levels: tuple[int, ...] | None = None
    item: int | str | None = None
    source: str = 'output'

    @classmethod
    def parse(cls, spec: str | Mapping[str, Any] | Tap) -> Tap:
        """Read a tap as it stands in a config."""
        if isinstance(spec, Tap):
            return spec
        if isinstance(spec, str):
            return cls(spec)
        if not isinstance(spec, Mapping) or not isinstance(spec.get('at'), str):
            raise InputError(
                f"tap: {spec!r}; needed: a module name, or dict(at='neck', levels=[0])"
            )
        known = dict(at=spec['at'], levels=None, item=None, source='output')
        where = f'tap {spec["at"]!r}'
        refuse_unknown(where, spec, known)
        options = {**known, **spec}
        options['levels'] = _levels(where, options['levels'])
        if options['item'] is not None and not _is_index(options['item']):
            raise InputError(f'{where}: item={options["item"]!r}; needed: a whole number')
        refuse_other(f'{where}: source', options['source'], SOURCES)
        return cls(**options)

    @property
    def place(self) -> Place:
        """Where the tap reads."""
        return self.at, self.source

    def select(self, calls: Sequence[Any], owner: str = 'the model') -> list[Tensor]:
        """Pick this tap's tensors from what passed at its place.

        >>> import torch
        >>> levels = tuple(torch.zeros(1, 4, 8 // 2**i, 8 // 2**i) for i in range(3))
        >>> [t.shape[-1] for t in Tap('neck', levels=(0, 2)).select([levels])]
        [8, 2]
        """
        values = calls if self.item is None else [self._pick_item(call, owner) for call in calls]
        tensors = flatten(values)
        if self.levels is None:
            return tensors
        wrong = [level for level in self.levels if not -len(tensors) <= level < len(tensors)]
        if wrong:
            raise InputError(
                f'tap {self.at!r}: levels {list(self.levels)}: {wrong[0]} is out of range; '
                f'{owner} has {len(tensors)} levels there (0 to {len(tensors) - 1})'
            )
        return [tensors[level] for level in self.levels]

    def _pick_item(self, call: Any, owner: str) -> Any:
        if isinstance(call, Mapping):
            return call.get(self.item)
        if not isinstance(call, (tuple, list)) or not -len(call) <= self.item < len(call):  # type: ignore[operator]
            size = f'{len(call)} items' if isinstance(call, (tuple, list)) else type(call).__name__
            raise InputError(f'tap {self.at!r}: item={self.item}; {owner} gives {size} there')
        return call[self.item]  # type: ignore[index]


class Features:
    """What passed at some places during one forward; indexed by tap.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())
    >>> with capture(net, [('0', 'output')]) as features:
    ...     _ = net(torch.zeros(1, 3, 4, 4))
    >>> [tuple(t.shape) for t in features[Tap('0')]]
    [(1, 8, 4, 4)]
    """

    def __init__(self, owner: str = 'the model') -> None:
        self.owner = owner
        self._calls: dict[Place, list[Any]] = {}
        self._versions: list[tuple[Place, Tensor, int]] = []

    def __getitem__(self, tap: Tap) -> list[Tensor]:
        return tap.select(self.calls(tap), self.owner)

    def calls(self, tap: Tap) -> list[Any]:
        """All that passed at a tap's place, as the module gave it, one entry for each call."""
        if tap.place not in self._calls:
            raise InputError(
                f'tap {tap.at!r}: the module exists but {self.owner} did not run it; '
                'pick one that runs (tools/list_taps.py CONFIG prints them)'
            )
        return self._calls[tap.place]

    def passed(self, tap: Tap) -> bool:
        """Whether anything passed at a tap's place."""
        return tap.place in self._calls

    def trained(self, taps: Iterable[Tap]) -> list[Tensor]:
        """What passed at some taps and takes a gradient."""
        passed = [tap for tap in taps if self.passed(tap)]
        return [tensor for tap in passed for tensor in self[tap] if tensor.requires_grad]

    def add(self, place: Place, value: Any) -> None:
        """Note that a value passed at a place."""
        self._calls.setdefault(place, []).append(value)
        self._versions += [(place, tensor, tensor._version) for tensor in flatten(value)]

    def overwritten(self) -> set[Place]:
        """Places whose tensors something has changed in place since they passed."""
        return {place for place, tensor, version in self._versions if tensor._version != version}

    def counts(self) -> dict[Place, int]:
        """How often each place was passed."""
        return {place: len(calls) for place, calls in self._calls.items()}

    def tensors(self) -> list[Tensor]:
        """Every captured tensor."""
        return flatten(list(self._calls.values()))

    def shapes(self) -> list[tuple[str, list[Size]]]:
        """Each tapped name with the shapes seen there, in the order in which they first passed."""
        named = [(at, [t.shape for t in flatten(calls)]) for (at, _), calls in self._calls.items()]
        return [(at, shapes) for at, shapes in named if shapes]


class _Enough(BaseException):
    """Ends a forward once every tap has answered; no ``except Exception`` stops it."""


@contextmanager
def capture(
    model: nn.Module,
    places: Iterable[Place],
    *,
    until: Mapping[Place, int] | None = None,
    copied: Collection[Place] = (),
    owner: str = 'the model',
) -> Iterator[Features]:
    """Read places of a model during the forwards inside the ``with`` block.

    Where gradients are recorded, what a model tries for itself without them is not read (a sampler that scores
    all boxes to choose from them).

    Args:
        model: the model; its modules are left as they were found.
        places: what to read.
        until: how often each place is passed; the forward ends, and the block with it, as soon as
            all have been. Without it the forward runs to its end.
        copied: places whose tensors something later overwrites; these are cloned.
        owner: the model's name in messages.
    """
    features, training = Features(owner), torch.is_grad_enabled()

    def note(place: Place, value: Any) -> None:
        if training and not torch.is_grad_enabled():
            return
        features.add(place, mapped(value, Tensor.clone) if place in copied else value)
        if until is not None and features.counts() == until:
            raise _Enough

    sources: dict[str, set[str]] = {}
    for at, source in places:
        sources.setdefault(at, set()).add(source)
    with ExitStack() as stack:
        for at, wanted in sources.items():
            stack.enter_context(_wrapped(find_module(model, at, owner), at, wanted, note))
        with suppress(_Enough):
            yield features


@contextmanager
def _wrapped(module: nn.Module, at: str, wanted: set[str], note: Any) -> Iterator[None]:
    own = vars(module).get('forward')
    inner = module.forward

    @functools.wraps(inner)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if 'input' in wanted:
            note((at, 'input'), (*args, *kwargs.values()))
        if 'call' in wanted:
            note((at, 'call'), dict(zip(inspect.signature(inner).parameters, args)) | kwargs)
        output = inner(*args, **kwargs)
        if 'output' in wanted:
            note((at, 'output'), output)
        return output

    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def find_module(model: nn.Module, at: str, owner: str = 'the model') -> nn.Module:
    """The module of a name, or an error with the nearest right names.

    >>> find_module(nn.Sequential(nn.ReLU()), '0')
    ReLU()
    """
    modules = dict(model.named_modules())
    if at not in modules or not at:
        raise InputError(
            f'unknown tap {at!r}: {owner} has no module of that name; '
            f'{nearest(at, (name for name in modules if name))} '
            '(tools/list_taps.py CONFIG prints all)'
        )
    return modules[at]


def has_modules(model: nn.Module, taps: Iterable[Tap]) -> bool:
    """Whether a model has a module at every tap.

    >>> has_modules(nn.Sequential(nn.ReLU()), [Tap('0')]), has_modules(nn.ReLU(), [Tap('0')])
    (True, False)
    """
    names = {name for name, _ in model.named_modules()}
    return all(tap.at in names for tap in taps)


def parse_taps(spec: Any) -> list[Tap]:
    """Read one tap or a list of taps.

    >>> [tap.at for tap in parse_taps(['backbone.layer3', 'backbone.layer4'])]
    ['backbone.layer3', 'backbone.layer4']
    """
    specs = spec if isinstance(spec, (list, tuple)) else [spec]
    if not specs:
        raise InputError(f"tap: {spec!r}; needed: one module name at least ('neck')")
    return [Tap.parse(item) for item in specs]


def flatten(value: Any) -> list[Tensor]:
    """Every tensor in a nest of tuples, lists and dicts, in order.

    >>> import torch
    >>> len(flatten((torch.zeros(1), [torch.zeros(1), 'text'], {'a': torch.zeros(1)})))
    3
    """
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        return []
    return [tensor for item in value for tensor in flatten(item)]


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A nest of tuples, lists and dicts with a function of each tensor in the tensor's place.

    >>> import torch
    >>> mapped([torch.ones(2), {'a': (torch.ones(3), 'text')}], lambda t: t.sum())
    [tensor(2.), {'a': [tensor(3.), 'text']}]
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: mapped(item, function) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [mapped(item, function) for item in value]
    return value


def _levels(where: str, levels: Any) -> tuple[int, ...] | None:
    """The levels of a tap as it stands in a config."""
    if levels is None:
        return None
    listed = isinstance(levels, (list, tuple)) and levels
    if not listed or not all(_is_index(level) for level in levels):
        raise InputError(f'{where}: levels={levels!r}; needed: a list of whole numbers ([0, 1])')
    return tuple(levels)


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
