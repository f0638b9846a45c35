"""KD: distilling the knowledge in a neural network (Hinton et al., 2015), for every kind of head."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..core.levels import pair_by_stride
from ..core.likeness import (
    refuse_masks,
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
from ..family.masks import MaskDivergence
from ..family.taps import Tap, parse_taps
from ..necks.adapters import resize
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
    - masks of two-stage detectors: of every box that holds an object the mask of its class, which the
      teacher draws too; the binary form, mean over pixels and boxes, a term of its own.
    - one-stage detection: all anchors or points; the sum is divided by the number of objects that
      the teacher expects, ``sum_i max_c p_t``, because most anchors hold nothing (ours).
    - query-based detection: the last decoder layer, the student's queries paired one to one with
      the teacher's by class probabilities and boxes (ours; denoising queries are left out).

    Difference from the paper: the task loss keeps its full weight instead of 1 - w.

    Args:
        temperature: T; by default 4 for classification and 1 otherwise, 2 with ``standardize``.
        standardize: compare logits of softmax heads of mean 0 and deviation 1 (Sun et al., CVPR 2024).
        masks: whether masks are compared; by default where both have them in RoI heads.
        tap: where the student's logits are, if the head is not the usual one.
        teacher_tap: the same for the teacher.
        **options: see :class:`Method`.

    >>> KD(temperature=2.0).temperature
    2.0
    """

    shares = {'classification': 3.0, 'detection': 1.0}
    scaled = True

    def __init__(
        self,
        temperature: Positive | None = None,
        standardize: bool = False,
        masks: bool | None = None,
        tap: Taps | None = None,
        teacher_tap: Taps | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.standardize, self.masks = standardize, masks
        self.temperature, self._tap, self._teacher_tap = temperature, tap, teacher_tap
        self.divergence: LogitDivergence | None = None
        self.mask_divergence: MaskDivergence | None = None
        self.logits: tuple[list[Tap], list[Tap]] = ([], [])

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
        self.logits = self.student_taps, self.teacher_taps
        if self.masks is not False:
            self._plan_masks(student, teacher)

    def _plan_masks(self, student: nn.Module, teacher: nn.Module) -> None:
        """Read masks, too, where both have them."""
        assert self.divergence is not None
        self.mask_divergence = MaskDivergence.of(student, teacher, self.divergence.temperature)
        if self.mask_divergence is not None:
            self.student_taps = [*self.student_taps, *self.mask_divergence.taps]
            self.teacher_taps = [*self.teacher_taps, *self.mask_divergence.taps]
        elif self.masks:
            refuse_masks('KD', student, teacher)

    def reads_labels(self, student: nn.Module) -> str | None:
        parts = dict(roi='boxes that are sampled around objects', query='queries made of objects')
        kind = head_kind(student)
        return f'KD compares {parts[kind]}' if kind in parts else None

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Look at both heads: sigmoid or softmax, as many classes, logits of the same shapes."""
        assert teacher is not None
        refuse_other_classes('KD', student, teacher)
        kind = '' if self.divergence is None else self.divergence.kind
        if kind == 'dense' and teacher.scale != 1:
            self._pair_levels(student, teacher)
        if self._tap is None:
            refuse_mixed('KD', student, self.logits[0])
        sizes = teacher.scale == 1
        refuse_other_shapes('KD', student, teacher, self.logits, kind != 'query', sizes)
        if self.mask_divergence is not None:
            taps = self.mask_divergence.taps
            refuse_other_shapes('KD: masks', student, teacher, (taps, taps))
            # not before: a dry run calls no loss
            self.student_taps = [*self.student_taps, *self.mask_divergence.losses]

    def _pair_levels(self, student: Side, teacher: Side) -> None:
        """Compare the levels whose strides are alike in the student's pixels."""
        old, new = self.logits, pair_by_stride('KD', student, teacher, *self.logits)
        self.logits = new
        self.student_taps = [*new[0], *(t for t in self.student_taps if t not in old[0])]
        self.teacher_taps = [*new[1], *(t for t in self.teacher_taps if t not in old[1])]

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The divergence, divided by rows, or for dense heads by the objects the teacher expects."""
        assert self.divergence is not None
        ours = [t for tap in self.logits[0] for t in step.student[tap]]
        theirs = [t for tap in self.logits[1] for t in step.answers()[tap]]
        if self.divergence.kind in ('dense', 'pixel'):  # of a teacher that sees larger images
            theirs = [resize(t, s.shape[-2:]) for s, t in zip(ours, theirs)]
        found = {'loss': self.divergence(ours, theirs)}
        if self.mask_divergence is not None:
            found['loss_masks'] = self.mask_divergence(step.student, step.answers())
        return found
