"""Number formats, and mixed precision on CPUs, which mmengine's wrapper refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

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

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast around the forward, gradient accumulation as in the base class."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield
