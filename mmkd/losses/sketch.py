"""Maps in short: a few thousand numbers whose inner products are those of the maps, on average."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .cka import gram, hsic

MOST, FEWEST_NUMBERS, OF_A_BATCH = 8192, 512, 2**17
"""Numbers of one map, at most and at least, and those that a batch of maps may have together."""


def numbers_for(images: int) -> int:
    """How many numbers stand for a map of a batch: the more images there are, the fewer suffice.

    >>> numbers_for(8), numbers_for(64), numbers_for(1024)
    (8192, 2048, 512)
    """
    return max(FEWEST_NUMBERS, min(MOST, OF_A_BATCH // images))


def sketch(maps: Tensor, numbers: int) -> Tensor:
    """Two independent sketches of maps [B, C, H, W], one after the other along the channels [B, 2 c, h, w].

    In each, every value gets a random sign that depends on its place alone, and values whose channels, rows
    and columns are equal modulo c, h and w are summed. So images of several sizes can be compared, and a map
    of at most c channels, h rows and w columns loses nothing.

    >>> sketch(torch.ones(1, 256, 100, 168), 8192).shape
    torch.Size([1, 128, 8, 8])
    >>> sketch(torch.ones(1, 2, 2, 2), 8192).abs().unique()
    tensor([1.])
    """
    half, channels = numbers // 2, maps.shape[1]
    channels = min(channels, half // (64 if half >= 2048 else 16))
    side = math.isqrt(half // channels)
    halves = []
    for signs in random_signs(*maps.shape[1:], maps.device):
        folded = maps.detach().float() * signs
        for dim, size in ((1, channels), (2, side), (3, side)):
            folded = fold(folded, dim, size)
        halves.append(folded)
    return torch.cat(halves, 1)


def hsic_terms_of_sketches(x: Tensor, y: Tensor) -> Tensor:
    """``[HSIC(x, y), HSIC(x, x), HSIC(y, y)]`` of two maps' sketches, without bias.

    A sketch's inner products have an error whose square would count as alignment of a map with itself. So each
    product is that of one sketch's kernel with the other's, whose errors do not depend on each other.

    >>> maps = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    >>> terms = hsic_terms_of_sketches(sketch(maps, 512), sketch(maps, 512))
    >>> bool((terms[0] / terms[1] - 1).abs() < 1e-6)
    True
    """
    (x1, x2), (y1, y2) = ([gram(half) for half in both.chunk(2, 1)] for both in (x, y))
    return torch.stack([(hsic(x1, y2) + hsic(x2, y1)) / 2, hsic(x1, x2), hsic(y1, y2)])


@lru_cache(maxsize=16)
def random_signs(channels: int, height: int, width: int, device: torch.device) -> Tensor:
    """Two sets of signs [2, C, H, W], each a function of channel, row and column, the same everywhere.

    >>> small, large = (random_signs(2, n, n, torch.device('cpu')) for n in (2, 4))
    >>> bool((small == large[..., :2, :2]).all())
    True
    """
    c, y, x = (torch.arange(n, device=device) for n in (channels, height, width))
    mixed = c[:, None, None] * 73856093 ^ y[:, None] * 19349663 ^ x * 83492791
    for _ in range(2):
        mixed = mixed & 0xFFFFFFFF
        mixed = ((mixed >> 16) ^ mixed) * 0x45D9F3B
    bits = torch.stack([mixed >> 16, mixed >> 17]) & 1
    return (1 - 2 * bits).to(torch.int8)


def fold(maps: Tensor, dim: int, size: int) -> Tensor:
    """Sum the entries of a dimension whose places are equal modulo ``size``.

    >>> fold(torch.tensor([1.0, 2.0, 3.0]), 0, 2)
    tensor([4., 2.])
    """
    if maps.shape[dim] <= size:
        return maps
    missing = -maps.shape[dim] % size
    padding = [0, 0] * (maps.dim() - 1 - dim) + [0, missing]
    return F.pad(maps, padding).unflatten(dim, (-1, size)).sum(dim)
