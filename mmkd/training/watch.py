"""How all ranks learn of a signal in the same iteration, without asking each other in every one."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 1.0
"""About how often ranks ask each other."""
MOST = 100
"""Iterations between two questions, however short they are: they may become longer."""


class Watch:
    """Asks about once a second whether a signal has come to any rank; every rank in the same iteration.

    With each answer comes how long an iteration takes the slowest rank. From that all ranks reckon alike
    how many iterations are left until the next question.

    Args:
        group: the ranks, for tensors on the CPU.
    """

    def __init__(self, group: Any) -> None:
        self._group = group
        self._passed, self._gap = 0, 1
        self._then = time.monotonic()

    def soon(self) -> None:
        """Ask in the next iteration, because the last question was long ago. All ranks say so."""
        self._gap = self._passed + 1

    def agreed(self, number: int) -> int:
        """The signal that has come to any rank, or 0; always 0 in iterations without a question.

        Args:
            number: the signal that has come to this rank, or 0.
        """
        self._passed += 1
        if self._passed < self._gap:
            return 0
        pace = (time.monotonic() - self._then) / self._passed
        told = torch.tensor([number, pace], dtype=torch.float64)
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self._group)
        found, pace = told.tolist()
        self._passed, self._gap = 0, iterations_of(pace)
        self._then = time.monotonic()
        return int(found)


def iterations_of(pace: float) -> int:
    """How many iterations of so many seconds fit between two questions.

    >>> [iterations_of(seconds) for seconds in (3.0, 0.3, 0.001)]
    [1, 3, 100]
    """
    return max(1, min(MOST, round(SECONDS / max(pace, SECONDS / MOST))))
