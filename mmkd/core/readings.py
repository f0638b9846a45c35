"""Numbers of a device that the host wants to know, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Reading:
    """Numbers on their way to the host.

    Attributes:
        names: what they are.
        numbers: on the host; to be looked at once the device has come to ``arrival``.
        arrival: an event of the device.
    """

    names: list[str]
    numbers: Tensor
    arrival: Any

    def wait(self) -> dict[str, Any]:
        """The numbers by name."""
        self.arrival.synchronize()
        return dict(zip(self.names, self.numbers.tolist()))


class Readings:
    """Reads numbers of a device one iteration later, when they are there.

    On the CPU nothing is late: what is given is answered at once. On another device the answer is to what
    was given the time before, and the first time there is none. So the device always has work.

    >>> Readings()(['a', 'b'], torch.tensor([1.0, 2.0]))
    {'a': 1.0, 'b': 2.0}
    """

    def __init__(self) -> None:
        self._waiting: Reading | None = None

    def __call__(self, names: Sequence[str], numbers: Tensor) -> dict[str, Any]:
        """Give numbers, one for each name, and get those that have arrived."""
        numbers = numbers.detach()
        if numbers.device.type == 'cpu':
            return dict(zip(names, numbers.tolist()))
        arrived = self.rest()
        host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        host.copy_(numbers, non_blocking=True)
        event = getattr(torch, numbers.device.type).Event()
        event.record()
        self._waiting = Reading(list(names), host, event)
        return arrived

    def rest(self) -> dict[str, Any]:
        """What is still on its way, which is then told; the host waits for it."""
        found, self._waiting = self.waiting(), None
        return found

    def waiting(self) -> dict[str, Any]:
        """What is still on its way, and will yet be told; the host waits for it."""
        return {} if self._waiting is None else self._waiting.wait()
