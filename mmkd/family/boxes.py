"""The annotated boxes of a batch, as methods need them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import InputError


def annotated_boxes(samples: Any) -> list[Tensor]:
    """The boxes [M, 4] of each image of a detection batch, in pixels of the batch."""
    if not samples or not all('gt_instances' in sample for sample in samples):
        raise InputError(
            "foreground masks need the annotated boxes of a detector's batch (gt_instances); for "
            'classification and segmentation take a method without them (pkd, cwd, fitnet)'
        )
    boxes = (sample.gt_instances.bboxes for sample in samples)
    return [getattr(b, 'tensor', b) for b in boxes]
