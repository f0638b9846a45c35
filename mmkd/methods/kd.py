"""KD: distilling the knowledge in a neural network (Hinton et al., 2015), for every kind of head."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..core.levels import levels_of
from ..core.method import Method, Taps
from ..core.options import Positive
from ..core.step import Side, Step
from ..errors import InputError
from ..family.heads import head_kind, is_sigmoid, logit_head, logit_taps
from ..family.logits import LogitDivergence
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
        temperature: T; by default 4 for classification and 1 otherwise.
        tap: where the student's logits are, if the head is not the usual one.
        teacher_tap: the same for the teacher.
        **options: see :class:`Method`.

    >>> KD(temperature=2.0).temperature
    2.0
    """

    def __init__(
        self,
        temperature: Positive | None = None,
        tap: Taps | None = None,
        teacher_tap: Taps | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.temperature, self._tap, self._teacher_tap = temperature, tap, teacher_tap
        self.divergence: LogitDivergence | None = None

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Choose temperature and logits; teacher and student must have heads of one kind."""
        assert teacher is not None
        logit_head(teacher)  # a backbone alone has none, which is said
        kinds = head_kind(student), head_kind(teacher)
        if kinds[0] != kinds[1]:
            raise InputError(
                f"KD: the student's class logits are of kind {kinds[0]!r}, the teacher's of kind "
                f'{kinds[1]!r}; a feature method (pkd, cwd, fitnet) fits this pair'
            )
        self.divergence = LogitDivergence.of(student, teacher, self.temperature)
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
        _refuse_other_classes(student, teacher)
        self._refuse_other_shapes(student, teacher)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The divergence, divided by rows, or for dense heads by the objects the teacher expects."""
        assert self.divergence is not None
        ours = [t for tap in self.student_taps for t in step.student[tap]]
        theirs = [t for tap in self.teacher_taps for t in step.answers()[tap]]
        return {'loss': self.divergence(ours, theirs)}

    def _refuse_other_shapes(self, student: Side, teacher: Side) -> None:
        ours, theirs = levels_of(student, self.student_taps), levels_of(teacher, self.teacher_taps)
        if len(ours) != len(theirs):
            raise InputError(
                f'KD: {student.owner} gives {len(ours)} levels of logits, {teacher.owner} '
                f'{len(theirs)}; choose pairs with tap=dict(at=..., levels=[...])'
            )
        assert self.divergence is not None
        for (what, shape), (_, target) in zip(ours, theirs):
            if self.divergence.kind != 'query' and shape != target:
                raise InputError(
                    f'KD: {what}: {student.owner} {tuple(shape)} against {teacher.owner} '
                    f'{tuple(target)}; logits need the same classes, anchors and strides'
                )


def _refuse_other_classes(student: Side, teacher: Side) -> None:
    head, guide = logit_head(student.model), logit_head(teacher.model)
    if is_sigmoid(head) != is_sigmoid(guide):
        names = ['sigmoid' if is_sigmoid(h) else 'softmax' for h in (head, guide)]
        raise InputError(
            f'KD: {student.owner} has a {names[0]} head, {teacher.owner} a {names[1]} head; '
            'their logits do not compare. A feature method (pkd, cwd, fitnet) fits this pair'
        )
    counts = [getattr(h, 'num_classes', None) for h in (head, guide)]
    if None not in counts and counts[0] != counts[1]:
        raise InputError(
            f'KD: class count mismatch: {student.owner} has {counts[0]} classes, {teacher.owner}'
            f' {counts[1]}. Take a teacher of the same classes, or a feature method (pkd, cwd)'
        )
