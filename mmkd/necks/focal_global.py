"""The four terms of FGD between two maps of one level, relation blocks included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import constant_init, kaiming_init
from torch import Size, Tensor, nn

from ..errors import InputError, refuse_unknown
from ..family.boxes import annotated_boxes
from ..losses.focal_global import (
    background_mask,
    channel_attention,
    focal_distance,
    foreground_mask,
    spatial_attention,
)
from ..registry import MODELS

WEIGHTS: Mapping[str, dict[str, float]] = {
    'two-stage': dict(alpha=5e-5, beta=2.5e-5, gamma=5e-5, lam=5e-7),
    'anchor-based': dict(alpha=1e-3, beta=5e-4, gamma=5e-4, lam=5e-6),
    'anchor-free': dict(alpha=1.6e-3, beta=8e-4, gamma=8e-4, lam=8e-6),
}
"""The published weights by kind of detector: those of the authors' configs (``configs/distillers/fgd``) of

- two-stage: Faster R-CNN R101 to R50, Mask R-CNN R101 to R50, Cascade Mask R-CNN X101 to Faster R-CNN R50;
- anchor-based: RetinaNet R101 to R50, X101 to R50 and to R101, GFL R101 to R50. The default of the authors'
  loss for gamma, 1e-3, is in none of them;
- anchor-free: FCOS R101 to R50, RepPoints R101 to R50, X101 to R50.
"""
TEMPERATURES = {'two-stage': 0.5, 'anchor-based': 0.5, 'anchor-free': 0.8}
"""Likewise; 0.8 is FCOS's, RepPoints has 0.5."""


@MODELS.register_module()
class FocalGlobal(nn.Module):
    """Foreground, background, attention and relation differences of two maps of one level.

    Args:
        channels: of both maps.
        temperature: of the attention.

    >>> import torch
    >>> maps = torch.ones(2, 8, 4, 4)
    >>> sorted(FocalGlobal(8)(maps, maps, maps[:, 0]))
    ['loss_attention', 'loss_background', 'loss_foreground', 'loss_relation']
    """

    def __init__(self, channels: int, temperature: float = 0.5) -> None:
        super().__init__()
        if temperature <= 0:
            raise InputError(f'temperature={temperature}; needed: a number above 0')
        self.temperature = temperature
        self.student_context = GlobalContext(channels)
        self.teacher_context = GlobalContext(channels)

    def forward(self, student: Tensor, teacher: Tensor, foreground: Tensor) -> dict[str, Tensor]:
        """The unweighted terms, each summed over an image and averaged over images."""
        spatial, channel = self._attention(teacher)
        ours_spatial, ours_channel = self._attention(student)
        masks = {'foreground': foreground, 'background': background_mask(foreground)}
        terms = {
            f'loss_{name}': focal_distance(student, teacher, spatial, channel, mask)
            for name, mask in masks.items()
        }
        images = len(student)
        difference = (ours_spatial - spatial).abs().sum() + (ours_channel - channel).abs().sum()
        terms['loss_attention'] = difference / images
        related = self.student_context(student) - self.teacher_context(teacher)
        terms['loss_relation'] = related.square().sum() / images
        return terms

    def _attention(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        return (
            spatial_attention(maps, self.temperature),
            channel_attention(maps, self.temperature),
        )


class GlobalContext(nn.Module):
    """A map plus what its pooled context says: ``F + W2 ReLU(LN(W1 sum_p softmax(w F)_p F_p))``.

    The last convolution starts at zero, so that the block starts as the identity.

    >>> import torch
    >>> maps = torch.rand(2, 8, 4, 4)
    >>> bool((GlobalContext(8)(maps) == maps).all())
    True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = max(channels // 2, 1)
        self.attend = nn.Conv2d(channels, 1, 1)
        last = nn.Conv2d(half, channels, 1)
        self.transform = nn.Sequential(
            nn.Conv2d(channels, half, 1), nn.LayerNorm([half, 1, 1]), nn.ReLU(), last
        )
        kaiming_init(self.attend, mode='fan_in')
        constant_init(last, 0.0)

    def forward(self, maps: Tensor) -> Tensor:
        """The map with its context added everywhere."""
        weights = self.attend(maps).flatten(2).softmax(2)
        context = (maps.flatten(2) * weights).sum(2)
        return maps + self.transform(context[:, :, None, None])


def detector_kind(model: Any) -> str:
    """``two-stage``, ``anchor-based`` or ``anchor-free``, for the published weights.

    Query-based detectors, for which none are published, count as two-stage.
    """
    names = {base.__name__ for base in type(model).__mro__}
    if hasattr(model, 'roi_head') or 'DetectionTransformer' in names:
        return 'two-stage'
    generator = getattr(getattr(model, 'bbox_head', None), 'prior_generator', None)
    return 'anchor-based' if hasattr(generator, 'base_anchors') else 'anchor-free'


def focal_weights(model: Any, chosen: Mapping[str, float] | None = None) -> dict[str, float]:
    """The weights of the four terms: the published ones for a detector, with a config's over them."""
    defaults = WEIGHTS[detector_kind(model)]
    refuse_unknown('FGD', chosen or {}, [*defaults])
    return {**defaults, **(chosen or {})}


def focal_temperature(model: Any) -> float:
    """The published temperature for a detector."""
    return TEMPERATURES[detector_kind(model)]


TERMS = dict(alpha='foreground', beta='background', gamma='attention', lam='relation')


class FocalGlobalLevels(nn.ModuleList):
    """One :class:`FocalGlobal` for each level, and the weighted sum of each term over the levels.

    Args:
        channels: of the maps, level by level.
        weights: ``alpha``, ``beta``, ``gamma``, ``lam``; a term of weight 0 is left out.
        temperature: of the attention.
    """

    def __init__(
        self, channels: Sequence[int], weights: Mapping[str, float], temperature: float = 0.5
    ) -> None:
        super().__init__([FocalGlobal(count, temperature) for count in channels])
        self.weights = {f'loss_{TERMS[key]}': value for key, value in weights.items() if value}

    def forward(
        self, pairs: Sequence[tuple[Tensor, Tensor]], samples: Any, image: Size
    ) -> dict[str, Tensor]:
        """The terms between the student's and the teacher's map of each level."""
        levels = []
        for level, (student, teacher) in zip(self, pairs):
            foreground = foreground_masks(samples, teacher.shape[-2:], image, teacher.device)
            levels.append(level(student, teacher, foreground))
        return {
            name: value * torch.stack([terms[name] for terms in levels]).sum()
            for name, value in self.weights.items()
        }


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
