"""ReviewKD: distilling knowledge via knowledge review (CVPR 2021)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..core.levels import channels_of, refuse_unordered
from ..core.method import FeatureMethod
from ..core.options import Count
from ..core.step import Side, Step
from ..family.stages import stage_taps, task_of
from ..family.taps import Tap
from ..losses.contexts import context_distance
from ..necks.reviewing import Reviewer
from ..registry import MODELS


@MODELS.register_module()
class ReviewKD(FeatureMethod):
    """Each level of the teacher is learnt from the student's level and all deeper ones.

    The student's levels are fused from deep to shallow (:class:`mmkd.necks.Reviewer`) and compared by the
    hierarchical context loss: ``L = w sum_l sum_k 2^-k mse(pool_k(S_l), pool_k(T_l)) / sum_k 2^-k``,
    ``pool_0`` the whole map, then sides of 4, 2 and 1. docs/methods/review_kd.md says what is published.

    Args:
        width: channels of the fused maps; by default those of the student's deepest level, 512 at most.
        **options: see :class:`FeatureMethod`.

    >>> ReviewKD(width=64).width
    64
    """

    def __init__(self, width: Count | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.width = width
        self.reviewer: nn.Module = nn.Identity()

    def default_taps(self, student: nn.Module) -> list[Tap]:
        """Of classifiers every stage."""
        if task_of(student) == 'classification':
            return stage_taps(student)
        return super().default_taps(student)

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Build the fusion of the student's levels."""
        assert teacher is not None
        self.paired_levels(student, teacher)
        for side, taps in zip((student, teacher), self.level_taps):
            refuse_unordered('ReviewKD', side, taps)
        ours, theirs = (
            channels_of(student, self.student_taps),
            channels_of(teacher, self.teacher_taps),
        )
        self.width = self.width or min(ours[-1], 512)
        self.reviewer = Reviewer(ours, theirs, self.width)

    def pairs(self, step: Step) -> list[tuple[Tensor, Tensor]]:
        """The fused maps and the teacher's."""
        ours, theirs = zip(*self.raw_pairs(step))
        return list(zip(self.reviewer(ours, [t.shape[-2:] for t in theirs]), theirs))

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`context_distance`."""
        return context_distance(student, teacher)
