"""Tensors that say they are on a GPU, for machines without one: torch itself takes them for that."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class OnGPU(Tensor):
    """A tensor on ``cuda``, without storage; all that can be done with it is to bring it to the CPU.

    >>> OnGPU(torch.ones(2)).device.type, OnGPU(torch.ones(2)).cpu()
    ('cuda', tensor([1., 1.]))
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGPU:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, dtype=held.dtype, device='cuda'
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self) -> str:
        return f'OnGPU({self.held})'

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Tensor:
        aten, options = torch.ops.aten, kwargs or {}
        if func is aten._to_copy.default and torch.device(options.get('device')).type == 'cpu':
            return func(args[0].held, **options)
        if func is aten.copy_.default and not isinstance(args[0], cls):
            return args[0].copy_(args[1].held)
        if func is aten.detach.default:
            return cls(args[0].held)
        raise AssertionError(f'{func} needs a GPU')


def on_gpu(nest: Any) -> Any:
    """A nest with all its tensors there, as a Runner with a GPU loads a checkpoint."""
    if isinstance(nest, Tensor):
        return OnGPU(nest)
    if isinstance(nest, dict):
        return type(nest)((key, on_gpu(value)) for key, value in nest.items())
    if isinstance(nest, (list, tuple)):
        return type(nest)(on_gpu(value) for value in nest)
    return nest
