"""How the predictions of a dense head follow a teacher's: classes by quality focal, boxes by distance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..losses.quality import quality_focal
from .assigned import class_loss_taps, positive_rows
from .heads import logit_head
from .localization import BoxDivergence
from .logits import Levels, LogitDivergence
from .taps import Features, Tap


@dataclass(frozen=True)
class Mimicry:
    """The terms of a dense head's classes and boxes, at the same anchors or points as the teacher's.

    Classes: ``sum_c BCE(s, sigmoid(t)) |sigmoid(s) - sigmoid(t)|``, divided by how many anchors or
    points the student's own loss takes for objects. Boxes: their distance, the mean with the weights
    ``max_c sigmoid(t)``. All sums are over levels and ranks.

    Attributes:
        logits: reads the class scores.
        boxes: compares the boxes; None where they do not compare.
        overlap: boxes of bins are compared by overlap too; predictions are the student's own.
        losses: where the labels pass.
    """

    logits: LogitDivergence
    boxes: BoxDivergence | None
    overlap: bool
    losses: list[Tap]

    @classmethod
    def of(cls, student: nn.Module, teacher: nn.Module, overlap: bool) -> Mimicry:
        """Look at the student's head."""
        logits = LogitDivergence.of(student, teacher, None)
        if not logits.classes:
            raise InputError(
                f'{type(logit_head(student)).__name__} of the student has no class scores by anchor or point; '
                'needed: a dense head that has (cls_out_channels). For others: pkd, cwd, fitnet'
            )
        boxes = BoxDivergence.of(student)
        if overlap and _other_in_training(logit_head(student)):
            boxes = None
        return cls(logits, boxes, overlap, class_loss_taps(student))

    @property
    def taps(self) -> list[Tap]:
        """Where classes pass, and boxes if they compare."""
        classes = Tap('bbox_head', item=0)
        return [classes] if self.boxes is None else [classes, self.boxes.tap]

    def counted(self, theirs: Features, labels: Features, student: nn.Module) -> Tensor:
        """How many objects this rank's labels hold, and the sum of the weights of its boxes: [2]."""
        sure = self._sure(theirs)
        return torch.stack([positive_rows(labels, self.losses, student).sum().to(sure), sure.sum()])

    def terms(
        self, ours: Features, theirs: Features, counts: Tensor, student: nn.Module
    ) -> Mapping[str, Tensor]:
        """``classes``, and ``boxes`` where boxes compare.

        Args:
            ours: the predictions that are to follow.
            theirs: the teacher's.
            counts: the mean over ranks of what they have ``counted``.
            student: the student.
        """
        classes, *boxes = self.taps
        told = self.logits.rows(theirs[classes])
        terms = {'classes': quality_focal(self.logits.rows(ours[classes]), told).sum() / counts[0]}
        for tap in boxes:
            apart = self._apart(ours[tap], theirs[tap], logit_head(student))
            terms['boxes'] = (self._sure(theirs) * apart).sum() / counts[1]
        return terms

    def _sure(self, theirs: Features) -> Tensor:
        return self.logits.confidence(theirs[self.taps[0]])

    def _apart(self, ours: Levels, theirs: Levels, head: Any) -> Tensor:
        boxes: Any = self.boxes
        if not self.overlap:
            return boxes.distances(ours, theirs)
        if head.training and getattr(head, 'norm_on_bbox', False):
            # such an FCOS tells distances in units of the stride while it is trained, else in pixels
            ours = [level * stride for level, stride in zip(ours, head.strides)]
        return boxes.gaps(ours, theirs)


def _other_in_training(head: nn.Module) -> bool:
    """Whether a head gives other boxes in training than in prediction (VFNet: unrefined ones)."""
    return hasattr(head, 'vfnet_reg_refine_dconv')
