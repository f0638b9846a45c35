"""Fusion of a student's stages, deep to shallow: each level of the teacher is met with deeper ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn


class Reviewer(nn.Module):
    """A student's maps become the teacher's, each fused with what is deeper.

    From the deepest level on: ``x = C1(F)``; where there is a deeper level, its fused map y is enlarged and
    ``x = z_1 x + z_2 y`` with two maps of attention ``z = sigmoid(C1([x, y]))``. A 3x3 convolution makes the
    teacher's channels of x, which is handed on to the shallower level.

    Args:
        in_channels: of the student's levels, shallow to deep.
        out_channels: of the teacher's.
        width: channels of the fused maps.

    >>> maps = [torch.rand(2, 4, 8, 8), torch.rand(2, 8, 4, 4)]
    >>> sizes = [(8, 8), (4, 4)]
    >>> [m.shape[1] for m in Reviewer([4, 8], [16, 32], 8)(maps, sizes)]
    [16, 32]
    """

    def __init__(self, in_channels: Sequence[int], out_channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.enter = nn.ModuleList(_normed(c, width, 1) for c in in_channels)
        self.leave = nn.ModuleList(_normed(width, c, 3) for c in out_channels)
        self.attend = nn.ModuleList(nn.Conv2d(2 * width, 2, 1) for _ in in_channels[:-1])

    def forward(
        self, maps: Sequence[Tensor], sizes: Sequence[tuple[int, int] | Size]
    ) -> list[Tensor]:
        """The student's levels, shallow to deep, in the channels and at the sizes of the teacher's."""
        fused = self.enter[-1](maps[-1])
        found = [_sized(self.leave[-1](fused), sizes[-1])]
        for level in range(len(maps) - 2, -1, -1):
            own = self.enter[level](maps[level])
            deeper = _sized(fused, own.shape[-2:])
            shares = self.attend[level](torch.cat([own, deeper], 1)).sigmoid()
            fused = own * shares[:, :1] + deeper * shares[:, 1:]
            found.append(_sized(self.leave[level](fused), sizes[level]))
        return found[::-1]


def _normed(in_channels: int, out_channels: int, size: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def _sized(maps: Tensor, size: tuple[int, int] | Size) -> Tensor:
    return (
        maps if maps.shape[-2:] == tuple(size) else F.interpolate(maps, tuple(size), mode='nearest')
    )
