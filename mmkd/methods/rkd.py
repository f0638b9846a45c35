"""RKD: relational knowledge distillation (CVPR 2019)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..collectives import gather_rows
from ..core.likeness import refuse_without_embedding
from ..core.method import Method, Taps, refuse_other_task
from ..core.options import NonNegative
from ..core.step import Side, Step
from ..family.embeddings import embedding_of, embedding_taps
from ..losses.relations import relation_distances
from ..registry import MODELS


@MODELS.register_module()
class RKD(Method):
    """Images lie to each other in the student's embedding as in the teacher's.

    ``L = distance mean_ij h(d_s(i, j), d_t(i, j)) + angle mean_ijk h(a_s(i, j, k), a_t(i, j, k))``: ``h``
    smooth L1, ``d`` Euclidean distances over their mean, ``a`` the cosine of the angle at j; of the images of
    all ranks.

    Weights are the published 25 and 50. Embeddings are what the pooling gives (``neck``); maps are pooled.

    Args:
        distance: weight of the distances.
        angle: weight of the angles.
        tap: where the student's embedding is; by default ``neck``, else the backbone.
        teacher_tap: the same of the teacher; by default chosen likewise.
        **options: see :class:`Method`.

    >>> RKD(angle=0.0).distance
    25.0
    """

    scaled = True

    def __init__(
        self,
        distance: NonNegative = 25.0,
        angle: NonNegative = 50.0,
        tap: Taps | None = None,
        teacher_tap: Taps | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.distance, self.angle = distance, angle
        self._tap, self._teacher_tap = tap, teacher_tap

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Find both embeddings."""
        assert teacher is not None
        self.student_taps = embedding_taps(student, self._tap)
        self.teacher_taps = embedding_taps(teacher, self._teacher_tap)

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Both must give one embedding for each image of a classifier."""
        assert teacher is not None
        refuse_other_task(self, student, 'classification')
        for side, taps in ((student, self.student_taps), (teacher, self.teacher_taps)):
            refuse_without_embedding('RKD', side, taps)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Both terms that have weight."""
        sides = (step.student, self.student_taps), (step.answers(), self.teacher_taps)
        found = gather_rows([embedding_of(features, taps) for features, taps in sides])
        distance, angle = relation_distances(*found)
        terms = dict(loss_distance=(self.distance, distance), loss_angle=(self.angle, angle))
        return {name: weight * term for name, (weight, term) in terms.items() if weight}
