"""Mixed precision on CPUs, which mmengine's wrapper refuses."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.amp import custom_fwd

from ..registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(OptimWrapper):
    """The forward runs under bfloat16 autocast; no loss scale is needed.

    >>> weight = nn.Linear(2, 2)
    >>> wrapper = CpuAmpOptimWrapper(torch.optim.SGD(weight.parameters(), lr=0.1))
    >>> with wrapper.optim_context(weight):
    ...     print(weight(torch.zeros(1, 2)).dtype)
    torch.bfloat16
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        keep_single_precision()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast around the forward, gradient accumulation as in the base class."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


@functools.cache
def keep_single_precision() -> None:
    """Let the operators of mmcv that have no bfloat16 on CPUs take single precision under autocast there."""
    from mmcv.ops.nms import NMSop
    from mmcv.ops.roi_align import RoIAlignFunction

    NMSop.forward = staticmethod(
        custom_fwd(NMSop.forward, device_type='cpu', cast_inputs=torch.float32)
    )
    forward, backward = RoIAlignFunction.forward, RoIAlignFunction.backward

    def single_forward(ctx: Any, features: Tensor, boxes: Tensor, *rest: Any) -> Tensor:
        return forward(ctx, _single(features), _single(boxes), *rest).to(features.dtype)

    def single_backward(ctx: Any, gradient: Tensor) -> Any:
        return backward(ctx, _single(gradient))

    RoIAlignFunction.forward = staticmethod(single_forward)
    RoIAlignFunction.backward = staticmethod(single_backward)


def _single(values: Tensor) -> Tensor:
    """Single precision instead of bfloat16 on CPUs."""
    lacking = values.device.type == 'cpu' and values.dtype == torch.bfloat16
    return values.float() if lacking else values
