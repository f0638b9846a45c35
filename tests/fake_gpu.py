"""A GPU for machines without one: tensors that say they are on it, and a mode that answers as a GPU would.

PyTorch takes the device ``fake`` for an accelerator: autograd, autocast and optimisers go their ways for
one. What is computed is computed by the CPU. While :class:`FakeGPU` is open,

- what mixes tensors of both sides is refused, as CUDA refuses it;
- every operator for which the host would have to wait until the device is done is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _DummyPrivateUse1Hook,
    _setup_privateuseone_for_python_backend,
)

DEVICE = 'fake'
aten = torch.ops.aten
READING = {
    aten._local_scalar_dense,
    aten.equal,
    aten.is_nonzero,
    aten.masked_select,
    aten.nonzero,
    aten._unique2,
    aten.unique_consecutive,
    aten.unique_dim,
    aten.bincount,
    aten.repeat_interleave,
}
"""Operators whose answer, or its size, the host must know before it goes on."""
MASKED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
"""Those that read when an index is a mask."""
MOVING = {aten._to_copy, aten.copy_, aten._copy_from}


class Event:
    """An event of a device that is always done."""

    def record(self) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Done."""


class _Backend(_DummyBackendModule):
    Event = Event

    @staticmethod
    def is_available() -> bool:
        return False

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class _Hook(_DummyPrivateUse1Hook):
    """For all other tests of the process there is no accelerator."""

    def is_available(self) -> bool:
        return False

    def is_built(self) -> bool:
        return False


class OnFake(Tensor):
    """A tensor on the fake device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnFake:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=f'{DEVICE}:0',
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self) -> str:
        return f'OnFake({self.held})'

    def tolist(self) -> Any:
        """Brought to the host first, as of every device."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with FakeGPU() as alone:
            return alone.__torch_dispatch__(func, types, args, kwargs)


class FakeGPU(TorchDispatchMode):
    """Runs operators of the fake device, and counts the waits in ``waits``, by operator and place."""

    def __init__(self, place: Callable[[], str] = lambda: '') -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.place = place

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What the device answers."""
        kwargs = dict(kwargs or {})
        target = kwargs.get('device')
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, OnFake)]
        if waits(func.overloadpacket, args, target, kwargs.get('non_blocking', False)):
            self.waits[f'{func.overloadpacket} {self.place()}'.strip()] += 1
        if func.overloadpacket not in MOVING | MASKED:
            refuse_mixed(func, tensors, there)
        stays = bool(there) if target is None else torch.device(target).type == DEVICE
        if func.overloadpacket in (aten.copy_, aten._local_scalar_dense):
            stays = isinstance(args[0], OnFake)
        if target is not None and torch.device(target).type == DEVICE:
            kwargs['device'] = 'cpu'
        kwargs.pop('pin_memory', None)
        found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        known = {id(tensor.held): tensor for tensor in there}

        def wrap(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if id(value) in known:
                return known[id(value)]
            return OnFake(value) if stays else value

        return tree_map(wrap, found)


def waits(packet: Any, args: Any, target: Any, late: bool) -> bool:
    """Whether the host must wait for the device: so it does for copies, unless from or to pinned memory."""
    if packet in (aten.copy_, aten._copy_from):
        late = late or bool(len(args) > 2 and args[2])
        apart = isinstance(args[1], OnFake) != isinstance(args[0], OnFake)
        return apart and args[1].dim() > 0 and not late
    if packet is aten._to_copy:
        down = isinstance(args[0], OnFake) and torch.device(target or DEVICE).type == 'cpu'
        up = not isinstance(args[0], OnFake) and torch.device(target or 'cpu').type == DEVICE
        return (down or up) and args[0].dim() > 0 and not late
    if packet in MASKED:
        masks = [
            i for i in args[1] if isinstance(i, OnFake) and i.dtype in (torch.bool, torch.uint8)
        ]
        # one value for all that is masked needs no positions
        return bool(masks) and not (len(args) > 2 and args[2].numel() == 1)
    return packet in READING and any(isinstance(arg, OnFake) for arg in args)


def refuse_mixed(func: Any, tensors: list[Tensor], there: list[OnFake]) -> None:
    """Stop at an operator with tensors of both sides; numbers (of no dimension) may come from the CPU."""
    here = [t for t in tensors if not isinstance(t, OnFake) and t.dim() > 0]
    if there and here:
        raise AssertionError(
            f'{func}: tensors on {DEVICE}:0 and on cpu {[tuple(t.shape) for t in here]}'
        )


def to_fake(nest: Any) -> Any:
    """A nest with all its tensors on the device."""
    return tree_map(lambda t: OnFake(t.detach()) if isinstance(t, Tensor) else t, nest)


@contextmanager
def fake_gpu(place: Callable[[], str] = lambda: '') -> Iterator[FakeGPU]:
    """The mode, on a device that PyTorch knows; host-side readings by other ways than operators count too."""
    _register()
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(
        True
    )  # so that ``torch.tensor([1], device=...)`` comes past the mode
    try:
        with FakeGPU(place) as mode:
            yield mode
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnFake) else value


def _register() -> None:
    if not hasattr(torch, DEVICE):
        _setup_privateuseone_for_python_backend(DEVICE, backend_module=_Backend(), hook=_Hook())
