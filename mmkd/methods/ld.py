"""LD: localization distillation for dense object detection (CVPR 2022; TPAMI 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..collectives import mean_count
from ..core.likeness import refuse_other_classes, refuse_other_heads, refuse_other_shapes
from ..core.method import Method
from ..core.options import NonNegative, Positive
from ..core.step import Side, Step
from ..errors import InputError
from ..family.assigned import class_loss_taps, positive_rows
from ..family.boxes import annotated_boxes
from ..family.heads import logit_head
from ..family.localization import BoxDivergence
from ..family.logits import LogitDivergence
from ..family.taps import Tap
from ..losses.kl import softmax_kl
from ..losses.region import valuable_region
from ..registry import MODELS

PAIR = 2
"""The images of a GPU in the authors' trainings, over which their sums run."""


@MODELS.register_module()
class LD(Method):
    """Box bins follow the teacher's where objects are, and around them; classes where objects are.

    With ``KL_T(s, t) = T^2 / K KL(softmax(t / T) || softmax(s / T))`` of K bins or classes, positives P
    (n of them) of the student's own loss, and the region R where ``tau / 4 <= DIoU(anchor, object) < tau``::

        L = bins / 4 sum_P v_i sum_sides KL_10 + region / 16 sum_R v_i sum_sides KL_10
            + classes / n sum_P KL_2,     v_i = max_c sigmoid(s_ic)

    tau is ATSS's of each object. The first two sums are those of two images. docs/methods/ld.md says
    what is published and where we differ.

    Args:
        bins: weight of the bins of positives.
        region: weight of the bins in the region.
        classes: weight of the class scores of positives.
        temperature: T of the bins.
        class_temperature: T of the classes.
        **options: see :class:`Method`.

    >>> LD(region=0.0).temperature
    10.0
    """

    def __init__(
        self,
        bins: NonNegative = 0.25,
        region: NonNegative = 0.25,
        classes: NonNegative = 10.0,
        temperature: Positive = 10.0,
        class_temperature: Positive = 2.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.bins, self.region, self.classes = bins, region, classes
        self.temperature, self.class_temperature = temperature, class_temperature
        self.model: list[nn.Module] = []  # no submodule
        self.logits: LogitDivergence | None = None
        self.boxes: BoxDivergence | None = None
        self.losses: list[Tap] = []

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Both heads must tell boxes by bins."""
        assert teacher is not None
        for model, owner in ((student, 'the student'), (teacher, 'the teacher')):
            refuse_other_heads('LD', model, 'dense', owner)
            found = BoxDivergence.of(model)
            if found is None or not found.bins:
                raise InputError(
                    f'LD is for boxes told by bins (GFL), {type(logit_head(model)).__name__} of {owner} '
                    'has none; for every dense head: bckd, cross_kd'
                )
        self.model = [student]
        self.boxes = BoxDivergence.of(student, self.temperature)
        self.logits = LogitDivergence.of(student, teacher, None)
        self.losses = class_loss_taps(student)
        self.student_taps = self.teacher_taps = [Tap('bbox_head', item=0), BoxDivergence.tap]

    def reads_labels(self, student: nn.Module) -> str | None:
        return 'LD looks at the boxes of objects'

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Compare what both heads gave in the dry run; then listen to the student's loss."""
        assert teacher is not None
        refuse_other_classes('LD', student, teacher)
        refuse_other_shapes('LD', student, teacher, (self.student_taps, self.teacher_taps))
        # not before: a dry run calls no loss
        self.student_taps = [*self.student_taps, *self.losses]

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms that have weight."""
        assert self.logits is not None
        assert self.boxes is not None
        sides = step.student, step.answers()
        s, t = (self.logits.rows(side[self.teacher_taps[0]]) for side in sides)
        ours, theirs = (self.boxes.sides(side[BoxDivergence.tap]) for side in sides)
        positive = positive_rows(step.student, self.losses, self.model[0])
        counts = mean_count(torch.stack([positive.sum().to(s), s.new_tensor(len(step.inputs))]))
        apart = softmax_kl(ours, theirs, self.temperature).mean(-1) / self.boxes.bins
        apart = apart * s.detach().sigmoid().amax(-1) * PAIR / counts[1]
        terms = {}
        if self.bins:
            terms['loss_bins'] = self.bins * apart[positive].sum()
        if self.region:
            around = self._region(step, step.student[self.teacher_taps[0]]) & ~positive
            terms['loss_region'] = self.region / 4 * apart[around].sum()
        if self.classes:
            divergence = softmax_kl(s[positive], t[positive], self.class_temperature).sum()
            terms['loss_classes'] = self.classes / s.shape[1] * divergence / counts[0]
        return terms

    def _region(self, step: Step, levels: list[Tensor]) -> Tensor:
        """The region of all images, as the rows of the class scores are."""
        generator: Any = logit_head(self.model[0]).prior_generator
        sizes = [level.shape[-2:] for level in levels]
        anchors = generator.grid_priors(sizes, device=levels[0].device)
        images = [
            valuable_region(anchors, boxes.float()) for boxes in annotated_boxes(step.samples)
        ]
        return torch.cat([mask for level in zip(*images) for mask in level])
