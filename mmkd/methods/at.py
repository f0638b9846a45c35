"""Attention transfer (Zagoruyko and Komodakis, ICLR 2017)."""

from __future__ import annotations

from torch import Tensor, nn

from ..core.method import FeatureMethod
from ..family.stages import stage_taps, task_of
from ..family.taps import Tap
from ..losses.attention import attention_distance
from ..registry import MODELS


@MODELS.register_module()
class AT(FeatureMethod):
    """The student looks where the teacher looks.

    ``L = w sum_l mean((Q_s - Q_t)^2)``, ``Q = vec(mean_c F^2) / ||vec(mean_c F^2)||_2``.

    Channels need not agree. Classifiers are tapped after every stage but the first. The paper
    writes the norm of the difference; its authors train its mean square with weight 1000, and so
    does this. For detection and segmentation the weight is the same, which is ours.

    >>> AT(weight=10.0).weight(0.5)
    10.0
    """

    compares_positions = True
    adapts = False
    weights = {'classification': 1000.0, 'detection': 1000.0, 'segmentation': 1000.0}

    def default_taps(self, student: nn.Module) -> list[Tap]:
        """Of classifiers every stage but the first."""
        if task_of(student) != 'classification':
            return super().default_taps(student)
        taps = stage_taps(student)
        return taps[1:] or taps

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`attention_distance`."""
        return attention_distance(student, teacher)
