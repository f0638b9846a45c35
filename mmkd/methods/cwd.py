"""CWD: channel-wise knowledge distillation for dense prediction (Shu et al., ICCV 2021)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from ..core.method import FeatureMethod
from ..core.options import Positive
from ..errors import InputError
from ..family.heads import logit_taps
from ..family.stages import task_of
from ..family.taps import Tap
from ..losses.kl import channel_kl
from ..registry import MODELS


@MODELS.register_module()
class CWD(FeatureMethod):
    """Each channel, as a distribution over positions, follows the teacher's.

    ``L = w T^2 / (B C) sum_bc KL(softmax_hw(t / T) || softmax_hw(s / T))``, summed over levels.

    Segmentors are tapped at the decode head's logits with the published weight 3 and T = 4;
    detectors at the neck with T = 1 and weight 5.

    Args:
        temperature: T; by default 4 for segmentation and 1 otherwise.
        **options: see :class:`FeatureMethod`.

    >>> CWD(temperature=2.0).temperature
    2.0
    """

    compares_positions = True
    weights = {'detection': 5.0, 'segmentation': 3.0}

    def __init__(self, temperature: Positive | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.temperature = temperature

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Choose the temperature by the task."""
        super().plan(student, teacher)
        if self.temperature is None:
            self.temperature = 4.0 if task_of(student) == 'segmentation' else 1.0

    def default_taps(self, student: nn.Module) -> list[Tap]:
        """Of segmentors the class scores, where a convolution makes them."""
        scores: list[Tap] = []
        if task_of(student) == 'segmentation':
            with suppress(InputError):  # masks that are told by queries
                scores = logit_taps(student)
        if scores and scores[0].at.endswith('.conv_seg'):
            return scores
        return super().default_taps(student)

    def default_pair(self, student: nn.Module, teacher: nn.Module) -> tuple[list[Tap], list[Tap]]:
        """Of a segmentor the features, where the teacher is none and has no class scores for pixels."""
        taps, theirs = super().default_pair(student, teacher)
        if task_of(student) != task_of(teacher):
            taps = super().default_taps(student)
        return taps, theirs

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`channel_kl`."""
        assert self.temperature is not None
        return channel_kl(student, teacher, self.temperature)
