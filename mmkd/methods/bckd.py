"""BCKD: bridging cross-task protocol inconsistency for distillation in dense object detection (ICCV 2023)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..collectives import mean_count
from ..core.likeness import (
    refuse_boxes,
    refuse_other_classes,
    refuse_other_heads,
    refuse_other_shapes,
    refuse_softmax,
)
from ..core.method import Method
from ..core.options import NonNegative
from ..core.step import Side, Step
from ..family.mimicry import Mimicry
from ..registry import MODELS


@MODELS.register_module()
class BCKD(Method):
    """Each class of a dense head is a question of its own, and boxes follow where the teacher is sure.

    ``L = classes / n sum_i sum_c BCE(s_ic, sigmoid(t_ic)) |sigmoid(t_ic) - sigmoid(s_ic)|
    + boxes sum_i w_i (1 - GIoU(b_i, b'_i)) / sum_i w_i``, ``w_i = max_c sigmoid(t_ic)``, over all anchors or
    points; n of them hold an object in the student's own loss. The teacher's map must have the student's
    anchors. docs/methods/bckd.md says what is published and where we differ.

    Args:
        classes: weight of the classes.
        boxes: weight of the boxes; by default 4, and none where the head's boxes do not compare.
        **options: see :class:`Method`.

    >>> BCKD(boxes=0.0).needs_teacher
    True
    """

    def __init__(
        self, classes: NonNegative = 1.0, boxes: NonNegative | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.classes, self.boxes = classes, boxes
        self.model: list[nn.Module] = []  # no submodule
        self.mimicry: Mimicry | None = None

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Look at both heads."""
        assert teacher is not None
        for model, owner in ((student, 'the student'), (teacher, 'the teacher')):
            refuse_other_heads('BCKD', model, 'dense', owner)
        refuse_softmax('BCKD', student)
        self.model = [student]
        self.mimicry = Mimicry.of(student, teacher, overlap=True)
        if self.boxes and self.mimicry.boxes is None:
            refuse_boxes('BCKD', self.boxes, student)
        self.student_taps = self.teacher_taps = self.mimicry.taps

    def reads_labels(self, student: nn.Module) -> str | None:
        return 'BCKD weighs its terms by what the labels are assigned to'

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Compare what both heads gave in the dry run; then listen to the student's loss."""
        assert teacher is not None
        assert self.mimicry is not None
        refuse_other_classes('BCKD', student, teacher)
        refuse_other_shapes('BCKD', student, teacher, (self.student_taps, self.teacher_taps))
        # not before: a dry run calls no loss
        self.student_taps = [*self.student_taps, *self.mimicry.losses]

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms that have weight."""
        assert self.mimicry is not None
        ours, theirs, student = step.student, step.answers(), self.model[0]
        counts = mean_count(self.mimicry.counted(theirs, ours, student))
        found = self.mimicry.terms(ours, theirs, counts, student)
        weights = dict(classes=self.classes, boxes=4.0 if self.boxes is None else self.boxes)
        return {f'loss_{k}': weights[k] * term for k, term in found.items() if weights[k]}
