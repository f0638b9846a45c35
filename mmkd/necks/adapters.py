"""Bringing a student's feature to the shape of the teacher's."""

from __future__ import annotations

import math
from typing import Union

import torch.nn.functional as F
from torch import Size, Tensor, nn

from ..errors import InputError
from ..registry import MODELS

MOST_EXTRA = 8
"""How many tokens there may be before those of the patches."""


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


STRIDES = (1, 2, 4, 8, 14, 16, 32, 64)
"""Sides of patches that networks have."""
Image = Union[int, 'tuple[int, int]']
"""Side of a square image, or height and width; 0 for an image that is not known."""


def as_map(feature: Tensor, what: str = 'the feature', image: Image = 0) -> Tensor:
    """A feature as a map [B, C, H, W]: vectors become 1x1 maps, grids of tokens become maps.

    Tokens are [B, N, C]; [B, C, N] is taken where only that makes a square, or a finer one of natural stride.
    Of an image that is no square the grid has its shape. Tokens before a grid (a class token, a distillation
    token) are left out.

    Args:
        feature: the feature.
        what: its name in messages.
        image: the image that it is of, if that is known.

    >>> import torch
    >>> [tuple(as_map(torch.zeros(*s)).shape) for s in ((2, 8), (2, 49, 8), (2, 50, 8), (2, 8, 49))]
    [(2, 8, 1, 1), (2, 8, 7, 7), (2, 8, 7, 7), (2, 8, 7, 7)]
    """
    if feature.dim() == 4:
        return feature
    if feature.dim() == 2:
        return feature[:, :, None, None]
    tokens = _tokens_first(feature, image) if feature.dim() == 3 else None
    if tokens is None:
        raise InputError(
            f'{what}: {tuple(feature.shape)} is no map [B, C, H, W], no vector [B, C] and no square '
            'grid of tokens [B, N, C]; tap another module (tools/list_taps.py CONFIG prints shapes)'
        )
    height, width = _grid(tokens.shape[1], image)
    return tokens[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))


def as_maps(
    student: Tensor, teacher: Tensor, image: Image = 0, what: str = 'the features'
) -> tuple[Tensor, Tensor]:
    """Both features as maps; as many tokens on both sides that make no square become columns.

    A student that runs several branches of its own on a batch (TridentNet) is compared branch by branch.

    >>> import torch
    >>> [tuple(m.shape) for m in as_maps(torch.zeros(6, 12, 5), torch.zeros(2, 12, 7))]
    [(6, 5, 12, 1), (6, 7, 12, 1)]
    """
    branches = student.shape[0] // teacher.shape[0]
    if branches > 1 and student.dim() == teacher.dim():
        teacher = teacher.repeat(branches, *(1 for _ in teacher.shape[1:]))
    both = (student, teacher)
    alike = all(f.dim() == 3 for f in both) and student.shape[1] == teacher.shape[1]
    if alike and any(_tokens_first(f, image) is None for f in both):
        return student.transpose(1, 2)[..., None], teacher.transpose(1, 2)[..., None]
    return as_map(student, what, image), as_map(teacher, what, image)


def grid_side(tokens: int) -> int:
    """The side of the square grid that tokens make, up to two tokens before it left out; 0 for none.

    >>> grid_side(197), grid_side(196), grid_side(195)
    (14, 14, 0)
    """
    for extra in (0, 1, 2):
        side = math.isqrt(max(tokens - extra, 0))
        if side * side == tokens - extra > 0:
            return side
    return 0


def patch_map(feature: Tensor, image: tuple[int, int] | Size, what: str = 'the feature') -> Tensor:
    """Patch tokens [B, N, C] of an image of any aspect ratio as a map; maps [B, C, H, W] stay what they are.

    The grid is the one whose ratio is nearest to the image's; up to eight tokens before it (class,
    registers) are left out.

    Args:
        feature: tokens or a map.
        image: height and width of the image.
        what: its name in messages.

    >>> import torch
    >>> [patch_map(torch.zeros(1, n, 8), (64, 96)).shape[2:] for n in (6, 7, 24, 29)]
    [torch.Size([2, 3]), torch.Size([2, 3]), torch.Size([4, 6]), torch.Size([4, 6])]
    """
    if feature.dim() == 4:
        return feature
    if feature.dim() != 3:
        raise InputError(
            f'{what}: {tuple(feature.shape)} is no map [B, C, H, W] and no patch tokens [B, N, C]; of a ViT of '
            "mmpretrain backbone.out_type='featmap' gives a map, and the tap 'backbone.ln1' tokens "
            '(tools/list_taps.py CONFIG prints shapes)'
        )
    height, width = _token_grid(feature.shape[1], image[0] / image[1])
    return feature[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))


def _token_grid(tokens: int, ratio: float) -> tuple[int, int]:
    """Height and width of the grid of patches, the tokens before it left out."""
    found = [
        (abs(math.log(rows * rows / count / ratio)), extra, rows)
        for extra in range(min(MOST_EXTRA, tokens - 1) + 1)
        for count in (tokens - extra,)
        for rows in range(1, count + 1)
        if count % rows == 0
    ]
    _, extra, rows = min(found)
    return rows, (tokens - extra) // rows


def _grid(tokens: int, image: Image) -> tuple[int, int]:
    """Height and width of the grid that tokens make; zeros for none.

    >>> _grid(197, 224), _grid(6 * 10 + 1, (96, 160)), _grid(9, (96, 160))
    ((14, 14), (6, 10), (0, 0))
    """
    if isinstance(image, int) or image[0] == image[1]:
        return grid_side(tokens), grid_side(tokens)
    for stride in STRIDES:
        whole, begun = ([way(side / stride) for side in image] for way in (math.floor, math.ceil))
        for height, width in (whole, begun):
            if height * width and 0 <= tokens - height * width <= 2:
                return height, width
    return 0, 0


def _tokens_first(feature: Tensor, image: Image) -> Tensor | None:
    """A feature as [B, N, C] where N makes a grid; None where it has none."""
    first, last = (_grid(size, image)[0] for size in feature.shape[1:])
    if first and last and isinstance(image, int):
        return (
            feature.transpose(1, 2) if _natural(last, image) > _natural(first, image) else feature
        )
    return feature if first else feature.transpose(1, 2) if last else None


def _natural(side: int, image: int) -> bool:
    """Whether patches of 14 or a power of two cut an image's side into as many."""
    return image % side == 0 and image // side in STRIDES
