"""Focal terms of FGD: attention of maps, foreground masks, and differences weighted by both."""

from __future__ import annotations

import torch
from torch import Tensor


def spatial_attention(maps: Tensor, temperature: float) -> Tensor:
    """``HW softmax(mean_c |F| / T)`` over the positions of maps [B, C, H, W]: [B, H, W].

    >>> spatial_attention(torch.ones(1, 3, 2, 2), 0.5).sum()
    tensor(4.)
    """
    height, width = maps.shape[-2:]
    strength = maps.abs().mean(1).flatten(1) / temperature
    return (height * width * strength.softmax(1)).unflatten(1, (height, width))


def channel_attention(maps: Tensor, temperature: float) -> Tensor:
    """``C softmax(mean_hw |F| / T)`` over the channels of maps [B, C, H, W]: [B, C].

    >>> channel_attention(torch.ones(1, 3, 2, 2), 0.5)
    tensor([[1., 1., 1.]])
    """
    strength = maps.abs().mean((2, 3)) / temperature
    return maps.shape[1] * strength.softmax(1)


def foreground_mask(boxes: Tensor, size: tuple[int, int], image: tuple[int, int]) -> Tensor:
    """Where objects are on a map, each scaled by its area in cells, the smallest object winning.

    A box covers the cells from ``floor`` of its first to ``ceil`` of its last coordinate, both
    included. No loop over boxes.

    Args:
        boxes: [M, 4] as x1, y1, x2, y2 in pixels of the image; M may be 0.
        size: height and width of the map.
        image: height and width of the (padded) image that the map is of.

    >>> foreground_mask(torch.tensor([[0.0, 0.0, 8.0, 8.0]]), (3, 3), (24, 24))
    tensor([[0.2500, 0.2500, 0.0000],
            [0.2500, 0.2500, 0.0000],
            [0.0000, 0.0000, 0.0000]])
    """
    # column by column: a tensor of factors would have to come from the host
    across, down = boxes[:, 0::2] * (size[1] / image[1]), boxes[:, 1::2] * (size[0] / image[0])
    first = torch.stack([across[:, 0], down[:, 0]], 1).floor()
    last = torch.stack([across[:, 1], down[:, 1]], 1).ceil()
    columns, rows = (
        (torch.arange(n, device=boxes.device) >= first[:, i, None])
        & (torch.arange(n, device=boxes.device) <= last[:, i, None])
        for i, n in enumerate((size[1], size[0]))
    )
    areas = (last + 1 - first).prod(1)
    covered = rows[:, :, None] & columns[:, None, :]
    values = covered / areas[:, None, None]
    return torch.cat([values, values.new_zeros(1, *size)]).amax(0)


def background_mask(foreground: Tensor) -> Tensor:
    """Where no object is, each image scaled to sum 1 (to 0 where objects are everywhere): [B, H, W].

    >>> background_mask(torch.tensor([[[0.5, 0.0], [0.0, 0.5]]]))
    tensor([[[0.0000, 0.5000],
             [0.5000, 0.0000]]])
    """
    empty = (foreground <= 0).to(foreground.dtype)
    return empty / empty.sum((1, 2), keepdim=True).clamp_min(1.0)


def focal_distance(
    student: Tensor, teacher: Tensor, spatial: Tensor, channel: Tensor, mask: Tensor
) -> Tensor:
    """``sum mask S C (F_s - F_t)^2`` per image.

    Args:
        student: maps [B, C, H, W].
        teacher: maps [B, C, H, W].
        spatial: the teacher's attention [B, H, W].
        channel: the teacher's attention [B, C].
        mask: [B, H, W].

    >>> ones = torch.ones(2, 3, 2, 2)
    >>> focal_distance(ones, 0 * ones, ones[:, 0], ones[:, :, 0, 0], ones[:, 0])
    tensor(12.)
    """
    squared = (student - teacher).square() * channel[:, :, None, None]
    return (squared.sum(1) * spatial * mask).sum() / len(student)
