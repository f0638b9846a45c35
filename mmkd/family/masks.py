"""How the masks of two RoI heads compare: pixel by pixel, on the boxes of the student's objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..collectives import mean_count
from ..losses.kl import binary_kl
from .heads import definer
from .taps import Features, Tap

KNOWN = ('StandardRoIHead', 'CascadeRoIHead')
"""The RoI heads that run their mask heads on any boxes."""


@dataclass(frozen=True)
class MaskDivergence:
    """``T^2 KL`` of a student's mask from a teacher's, of the class of the object that a box is assigned to.

    The mean over all pixels of all such boxes, of every stage and of all ranks; each pixel is a question of
    its own (sigmoid), as in the heads' own loss.

    Attributes:
        taps: where masks pass, a stage each.
        losses: where the loss of each stage is given the classes; nothing passes where there is no object.
        temperature: T.
    """

    taps: list[Tap]
    losses: list[Tap]
    temperature: float

    @classmethod
    def of(
        cls, student: nn.Module, teacher: nn.Module, temperature: float
    ) -> MaskDivergence | None:
        """Look at both models; None where they have no masks of RoIs that compare."""
        if not (has_roi_masks(student) and has_roi_masks(teacher)):
            return None
        taps = mask_taps(student)
        losses = [Tap(f'{tap.at}.loss_mask', item=2, source='input') for tap in taps]
        return cls(taps, losses, temperature)

    def __call__(self, student: Features, teacher: Features) -> Tensor:
        """The mean divergence; 0 where no box holds an object."""
        rows, nothing = [], []
        for tap, loss in zip(self.taps, self.losses):
            ours, theirs = (side[tap][0].float() for side in (student, teacher))
            nothing.append(0.0 * ours.sum())
            if student.passed(loss):
                (classes,) = student[loss]
                each = torch.arange(len(ours), device=ours.device)
                rows.append((ours[each, classes], theirs[each, classes]))
        zero = torch.stack(nothing).sum()
        divergences = [binary_kl(s, t, self.temperature) for s, t in rows]
        pixels = sum(one.numel() for one in divergences)
        total = torch.stack([zero, *(one.sum() for one in divergences)]).sum()
        return total / mean_count(total.new_tensor(float(pixels)))


def mask_taps(model: Any) -> list[Tap]:
    """Where the masks of a RoI head pass, a stage each."""
    head = model.roi_head.mask_head
    stages = [f'.{i}' for i in range(len(head))] if isinstance(head, nn.ModuleList) else ['']
    return [Tap(f'roi_head.mask_head{stage}') for stage in stages]


def has_roi_masks(model: Any) -> bool:
    """Whether a model makes masks of boxes, by heads that can be run on any boxes."""
    roi = getattr(model, 'roi_head', None)
    heads = getattr(roi, 'mask_head', None)
    own = getattr(roi, 'mask_roi_extractor', None)
    if roi is None or heads is None or own in (None, getattr(roi, 'bbox_roi_extractor', None)):
        return False
    each = heads if isinstance(heads, nn.ModuleList) else [heads]
    fcn = all(definer(head, 'loss_and_target') == 'FCNMaskHead' for head in each)
    return fcn and definer(roi, '_mask_forward') in KNOWN
