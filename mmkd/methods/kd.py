"""KD: distilling the knowledge in a neural network (Hinton et al., 2015), for every kind of head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..drive import task_of
from ..errors import InputError
from ..heads import head_kind, is_sigmoid, logit_head, logit_taps
from ..losses.kl import binary_kl, softmax_kl
from ..losses.matching import match_queries
from ..ranks import mean_count
from ..registry import MODELS
from ..taps import parse_taps
from .base import Method, Side, Step, levels_of

Rows = tuple[Tensor, Tensor]
"""Class logits of the student and of the teacher for the same things: [N, C] each."""


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
        temperature: float | None = None,
        tap: Any = None,
        teacher_tap: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if temperature is not None and temperature <= 0:
            raise InputError(f'KD: temperature={temperature}; needed: a number above 0')
        self.temperature, self._tap, self._teacher_tap = temperature, tap, teacher_tap
        self.sigmoid = False
        self.kind = 'vector'
        self.classes = 0
        self.queries = 0

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Choose temperature and logits; teacher and student must have heads of one kind."""
        assert teacher is not None
        self.kind = head_kind(student)
        if self.kind != head_kind(teacher):
            raise InputError(
                f"KD: the student's class logits are of kind {self.kind!r}, the teacher's of kind "
                f'{head_kind(teacher)!r}; a feature method (pkd, cwd, fitnet) fits this pair'
            )
        if self.temperature is None:
            self.temperature = 4.0 if task_of(student) == 'classification' else 1.0
        self.student_taps = logit_taps(student) if self._tap is None else parse_taps(self._tap)
        if self._teacher_tap is not None:
            self.teacher_taps = parse_taps(self._teacher_tap)
        else:
            self.teacher_taps = self.student_taps if self._tap else logit_taps(teacher)

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Look at both heads: sigmoid or softmax, as many classes, logits of the same shapes."""
        assert teacher is not None
        head, guide = logit_head(student.model), logit_head(teacher.model)
        self.sigmoid = is_sigmoid(head)
        self.classes = getattr(head, 'cls_out_channels', 0)
        self.queries = getattr(student.model, 'num_queries', 0)
        self._check_heads(student, teacher, head, guide)
        self._check_shapes(student, teacher)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The divergence, divided by rows, or for dense heads by the objects the teacher expects."""
        assert self.temperature is not None
        student, teacher = self._rows(step)
        if self.sigmoid:
            divergence = binary_kl(student, teacher, self.temperature).sum(-1)
        else:
            divergence = softmax_kl(student, teacher, self.temperature)
        if self.kind in ('dense', 'query'):
            counted = self._foreground(teacher).sum()
        else:
            counted = divergence.new_tensor(float(len(divergence)))
        return {'loss': divergence.sum() / mean_count(counted)}

    def _rows(self, step: Step) -> Rows:
        ours = [t.float() for tap in self.student_taps for t in step.student[tap]]
        theirs = [t.float() for tap in self.teacher_taps for t in step.answers()[tap]]
        if self.kind == 'query':
            return self._matched(ours, theirs)
        return self._as_rows(ours), self._as_rows(theirs)

    def _as_rows(self, logits: list[Tensor]) -> Tensor:
        classes = self.classes if self.kind == 'dense' else None
        return torch.cat([_last_dim_classes(level, classes) for level in logits])

    def _matched(self, ours: list[Tensor], theirs: list[Tensor]) -> Rows:
        """Paired rows of the last decoder layer; the student's denoising queries come first and go."""
        (scores, boxes), (their_scores, their_boxes) = (
            (values[0][-1], values[1][-1]) for values in (ours, theirs)
        )
        scores, boxes = scores[:, -self.queries :], boxes[:, -self.queries :]
        rows = []
        for s, b, t, tb in zip(scores, boxes, their_scores, their_boxes):
            mine, yours = match_queries((self._chance(s), b), (self._chance(t), tb))
            rows.append((s[mine], t[yours]))
        return torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows])

    def _chance(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.sigmoid else logits.softmax(-1)

    def _foreground(self, teacher: Tensor) -> Tensor:
        """How sure the teacher is that each row holds an object; softmax heads keep background last."""
        chance = self._chance(teacher)
        return (chance if self.sigmoid else chance[:, :-1]).amax(-1)

    def _check_heads(self, student: Side, teacher: Side, head: Any, guide: Any) -> None:
        if self.sigmoid != is_sigmoid(guide):
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

    def _check_shapes(self, student: Side, teacher: Side) -> None:
        ours, theirs = levels_of(student, self.student_taps), levels_of(teacher, self.teacher_taps)
        if len(ours) != len(theirs):
            raise InputError(
                f'KD: {student.owner} gives {len(ours)} levels of logits, {teacher.owner} '
                f'{len(theirs)}; choose pairs with tap=dict(at=..., levels=[...])'
            )
        for (what, shape), (_, target) in zip(ours, theirs):
            if self.kind != 'query' and shape != target:
                raise InputError(
                    f'KD: {what}: {student.owner} {tuple(shape)} against {teacher.owner} '
                    f'{tuple(target)}; logits need the same classes, anchors and strides'
                )


def _last_dim_classes(logits: Tensor, classes: int | None) -> Tensor:
    """Logits as rows [N, C]; maps [B, A C, H, W] put the anchors of a cell side by side."""
    if logits.dim() == 4:
        logits = logits.permute(0, 2, 3, 1)
    return logits.reshape(-1, classes or logits.shape[-1])
