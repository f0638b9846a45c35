"""What two networks last said of every training image, which others are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..collectives import uploaded


class MemoryBank:
    """A vector of length 1 for each image and each of two networks; no parameters.

    Every rank has the same, draws the same others, and is told the images of all.

    Args:
        width: of the vectors.
        negatives: how many others are drawn.
        momentum: how much of a vector stays when its image comes.
        seed: of the first vectors, and of the draws.

    >>> bank = MemoryBank(4, negatives=3, momentum=0.5, seed=0)
    >>> own, others = bank.recall(torch.tensor([7]), count=10)
    >>> own.shape, others.shape
    (torch.Size([2, 1, 4]), torch.Size([2, 3, 4]))
    """

    def __init__(self, width: int, negatives: int, momentum: float, seed: int) -> None:
        self.width, self.negatives, self.momentum = width, negatives, momentum
        self.rng = torch.Generator().manual_seed(seed)
        self.rows: Tensor | None = None
        self.scale: Tensor | None = None

    @property
    def count(self) -> int:
        """Of how many images there are vectors; none before the first batch."""
        return 0 if self.rows is None else self.rows.shape[1]

    def recall(self, images: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The vectors of some images [2, B, D], and of others that are drawn [2, K, D].

        Args:
            images: their numbers.
            count: of all images.
        """
        rows = self._rows(count, images.device)
        others = torch.randint(count, (self.negatives,), generator=self.rng)
        return rows[:, images], rows[:, uploaded(others, images.device)]

    def likely(self, scores: Tensor) -> Tensor:
        """``exp(score)`` of both networks [2, ...] over N times their mean in the first batch."""
        found = scores.exp()
        if self.scale is None:
            self.scale = found.detach().flatten(1).mean(1) * self.count
        self.scale = self.scale.to(found)
        return found / self.scale.view(2, *[1] * (found.dim() - 1))

    @torch.no_grad()
    def remember(self, images: Tensor, found: Tensor) -> None:
        """Bring vectors of some images nearer to what was found of them [2, B, D]; of twins the last counts."""
        assert self.rows is not None
        order = torch.arange(len(images), device=images.device)
        last = ((images[:, None] == images) * order).amax(1)
        mixed = self.momentum * self.rows[:, images] + (1 - self.momentum) * found[:, last]
        self.rows.index_copy_(1, images, F.normalize(mixed, dim=-1))

    def state(self) -> dict[str, Any]:
        """What is saved with a checkpoint."""
        return dict(rng=self.rng.get_state(), rows=self.rows, scale=self.scale)

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        self.rng.set_state(state['rng'])
        self.rows, self.scale = state['rows'], state['scale']

    def _rows(self, count: int, device: torch.device) -> Tensor:
        if self.rows is None:
            drawn = torch.rand(2, count, self.width, generator=self.rng) * 2 - 1
            self.rows = F.normalize(drawn, dim=-1)
        self.rows = uploaded(self.rows, device)
        return self.rows
