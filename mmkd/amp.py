"""Number formats, and mixed precision on CPUs, which mmengine's wrapper refuses."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn
from torch.amp import custom_fwd

from .registry import OPTIM_WRAPPERS

PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
"""Number formats by the names that options have for them."""


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

    for operator in (NMSop, RoIAlignFunction):
        forward = custom_fwd(operator.forward, device_type='cpu', cast_inputs=torch.float32)
        operator.forward = staticmethod(forward)
