"""The annotated boxes of a batch, as methods need them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor

from .errors import InputError
from .losses.focal_global import foreground_mask


def annotated_boxes(samples: Any) -> list[Tensor]:
    """The boxes [M, 4] of each image of a detection batch, in pixels of the batch."""
    if not samples or not all('gt_instances' in sample for sample in samples):
        raise InputError(
            "foreground masks need the annotated boxes of a detector's batch (gt_instances); for "
            'classification and segmentation take a method without them (pkd, cwd, fitnet)'
        )
    boxes = (sample.gt_instances.bboxes for sample in samples)
    return [getattr(b, 'tensor', b) for b in boxes]


def foreground_masks(
    samples: Any, size: tuple[int, int] | Size, image: tuple[int, int] | Size, device: torch.device
) -> Tensor:
    """The foreground of every image on a map of some size: [B, H, W]."""
    height, width = size
    masks = [
        foreground_mask(boxes.float().to(device), (height, width), (image[0], image[1]))
        for boxes in annotated_boxes(samples)
    ]
    return torch.stack(masks)
