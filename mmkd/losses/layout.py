"""How tensors lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def laid_out_like(student: Tensor, teacher: Tensor) -> Tensor:
    """A teacher's map in the student's number format and order in memory: what compares both runs along both.

    >>> theirs = torch.zeros(1, 2, 3, 3, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    >>> found = laid_out_like(torch.zeros(1, 2, 3, 3), theirs)
    >>> found.dtype, found.is_contiguous()
    (torch.float32, True)
    """
    last = not student.is_contiguous() and student.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return teacher.to(student.dtype, memory_format=layout)
