"""Bringing a student's feature to the shape of the teacher's."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Size, Tensor, nn

from ..errors import InputError
from ..registry import MODELS


@MODELS.register_module()
class Adapter(nn.Module):
    """A 1x1 convolution where channels differ, a bilinear resize where sizes differ; else nothing.

    >>> import torch
    >>> adapter = Adapter(8, 16)
    >>> adapter(torch.zeros(1, 8, 4, 4), size=(2, 2)).shape
    torch.Size([1, 16, 2, 2])
    >>> isinstance(Adapter(8, 8).project, nn.Identity)
    True
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        same = in_channels == out_channels
        self.project = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, feature: Tensor, size: tuple[int, int] | Size) -> Tensor:
        """Resize a map to the teacher's height and width, then project it to its channels."""
        return self.project(resize(feature, size))


def resize(feature: Tensor, size: tuple[int, int] | Size) -> Tensor:
    """Bilinear resize; the same tensor where the size is right already."""
    if feature.shape[-2:] == tuple(size):
        return feature
    return F.interpolate(feature, tuple(size), mode='bilinear', align_corners=False)


def as_map(feature: Tensor, what: str = 'the feature') -> Tensor:
    """A feature as a map [B, C, H, W]: vectors become 1x1 maps, square token grids become maps.

    A class token before a square grid is left out.

    >>> import torch
    >>> [tuple(as_map(torch.zeros(*s)).shape) for s in ((2, 8), (2, 49, 8), (2, 50, 8))]
    [(2, 8, 1, 1), (2, 8, 7, 7), (2, 8, 7, 7)]
    """
    if feature.dim() == 4:
        return feature
    if feature.dim() == 2:
        return feature[:, :, None, None]
    if feature.dim() == 3:
        tokens = feature.shape[1]
        for extra in (0, 1):
            side = math.isqrt(tokens - extra)
            if side * side == tokens - extra > 0:
                return feature[:, extra:].transpose(1, 2).unflatten(2, (side, side))
    raise InputError(
        f'{what}: {tuple(feature.shape)} is no map [B, C, H, W], no vector [B, C] and no square '
        'grid of tokens [B, N, C]; tap another module (tools/list_taps.py CONFIG prints shapes)'
    )
