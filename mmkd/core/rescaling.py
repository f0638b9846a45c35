"""A teacher that sees the student's batch larger or smaller."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..family.roi import Rois


class Rescale:
    """Resizes a batch, and what belongs to its pixels, by a factor.

    Both sides become the nearest multiple of a divisor, so that maps of both networks cover the same pixels and
    nothing is padded. Shrinking averages (antialias).

    Args:
        factor: the teacher's pixels for one of the student's.
        divisor: what the teacher's sides must be multiples of.

    >>> Rescale(1.5, 32).size((64, 100))
    (96, 160)
    """

    def __init__(self, factor: float, divisor: int = 1) -> None:
        self.factor, self.divisor = factor, divisor

    def size(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width of the teacher's batch for that of the student's."""
        height, width = (
            max(1, round(side * self.factor / self.divisor)) * self.divisor for side in size
        )
        return height, width

    def __call__(self, images: Tensor, samples: Any, rois: Rois | None) -> tuple[Tensor, Any, Any]:
        """The batch, its samples and the boxes that a RoI head scores, in the teacher's pixels."""
        before = images.shape[-2:]
        height, width = self.size(before)
        ratios = height / before[0], width / before[1]
        smaller = self.factor < 1
        images = F.interpolate(images, (height, width), mode='bilinear', antialias=smaller)
        return images, _samples(samples, ratios), _boxes(rois, ratios)


def _samples(samples: Any, ratios: tuple[float, float]) -> Any:
    """Copies of samples that state the teacher's sizes; labels are not read by a teacher."""
    if not samples or not hasattr(samples[0], 'set_metainfo'):
        return samples
    scaled = []
    for sample in samples:
        twin = copy.copy(sample)
        names = ('img_shape', 'pad_shape', 'batch_input_shape')
        sizes = {name: getattr(sample, name) for name in names if name in sample}
        twin.set_metainfo(
            {n: tuple(round(s * r) for s, r in zip(v, ratios)) for n, v in sizes.items()}
        )
        scaled.append(twin)
    return scaled


def _boxes(rois: Rois | None, ratios: tuple[float, float]) -> Rois | None:
    if rois is None:
        return None
    down, across = ratios
    return {
        part: boxes * boxes.new_tensor([1, across, down, across, down])
        for part, boxes in rois.items()
    }
