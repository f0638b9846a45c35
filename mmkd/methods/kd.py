"""KD: distilling the knowledge in a neural network (Hinton et al., 2015), for every kind of head."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..core.likeness import (
    refuse_mixed,
    refuse_other_classes,
    refuse_other_kinds,
    refuse_other_shapes,
    refuse_sigmoid,
)
from ..core.method import Method, Taps
from ..core.options import Positive
from ..core.step import Side, Step
from ..family.heads import head_kind, logit_taps
from ..family.logits import STANDARD_TEMPERATURE, LogitDivergence
from ..family.taps import parse_taps
from ..registry import MODELS


@MODELS.register_module()
class KD(Method):
    """The student's class probabilities follow the teacher's softened ones.

    ``L = w T^2 KL(softmax(t / T) || softmax(s / T))``; sigmoid heads take the binary form, summed
    over classes. What is compared, and how it is averaged, follows the head:

    - classification: the head's logits; mean over images.
    - segmentation: the decode head's logits; mean over pixels.
    - two-stage detection: every RoI head's logits for the boxes that the student sampled, which the
      teacher scores too; mean over boxes.
    - one-stage detection: all anchors or points; the sum is divided by the number of objects that
      the teacher expects, ``sum_i max_c p_t``, because most anchors hold nothing (ours).
    - query-based detection: the last decoder layer, the student's queries paired one to one with
      the teacher's by class probabilities and boxes (ours; denoising queries are left out).

    Difference from the paper: the task loss keeps its full weight instead of 1 - w.

    Args:
        temperature: T; by default 4 for classification and 1 otherwise, 2 with ``standardize``.
        standardize: compare logits of softmax heads of mean 0 and deviation 1 (Sun et al., CVPR 2024).
        tap: where the student's logits are, if the head is not the usual one.
        teacher_tap: the same for the teacher.
        **options: see :class:`Method`.

    >>> KD(temperature=2.0).temperature
    2.0
    """

    shares = {'classification': 3.0, 'detection': 1.0}

    def __init__(
        self,
        temperature: Positive | None = None,
        standardize: bool = False,
        tap: Taps | None = None,
        teacher_tap: Taps | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.standardize = standardize
        self.temperature, self._tap, self._teacher_tap = temperature, tap, teacher_tap
        self.divergence: LogitDivergence | None = None

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Choose temperature and logits; teacher and student must have heads of one kind."""
        assert teacher is not None
        refuse_other_kinds('KD', student, teacher)
        temperature = self.temperature
        if self.standardize:
            refuse_sigmoid('KD: standardize=True', student)
            temperature = temperature or STANDARD_TEMPERATURE
        self.divergence = LogitDivergence.of(student, teacher, temperature, self.standardize)
        self.student_taps = logit_taps(student) if self._tap is None else parse_taps(self._tap)
        if self._teacher_tap is not None:
            self.teacher_taps = parse_taps(self._teacher_tap)
        else:
            self.teacher_taps = self.student_taps if self._tap else logit_taps(teacher)

    def reads_labels(self, student: nn.Module) -> str | None:
        parts = dict(roi='boxes that are sampled around objects', query='queries made of objects')
        kind = head_kind(student)
        return f'KD compares {parts[kind]}' if kind in parts else None

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Look at both heads: sigmoid or softmax, as many classes, logits of the same shapes."""
        assert teacher is not None
        refuse_other_classes('KD', student, teacher)
        taps = self.student_taps, self.teacher_taps
        alike = self.divergence is not None and self.divergence.kind != 'query'
        refuse_other_shapes('KD', student, teacher, taps, alike)
        if self._tap is None:
            refuse_mixed('KD', student, self.student_taps)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The divergence, divided by rows, or for dense heads by the objects the teacher expects."""
        assert self.divergence is not None
        ours = [t for tap in self.student_taps for t in step.student[tap]]
        theirs = [t for tap in self.teacher_taps for t in step.answers()[tap]]
        return {'loss': self.divergence(ours, theirs)}
