"""FGD: focal and global knowledge distillation for detectors (CVPR 2022)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..core.levels import channels_of
from ..core.method import FeatureMethod, refuse_other_task
from ..core.options import NonNegative, Positive
from ..core.step import Side, Step
from ..necks.focal_global import FocalGlobalLevels, focal_temperature, focal_weights
from ..registry import MODELS


@MODELS.register_module()
class FGD(FeatureMethod):
    """Features near the teacher's, foreground and background apart, where the teacher attends.

    For every level, with the teacher's attentions ``S = HW softmax(mean_c |F_t| / T)`` and
    ``C = C softmax(mean_hw |F_t| / T)``, and a foreground mask ``M`` of 1 / (object's area)::

        L = alpha sum M S C (F_s - F_t)^2 + beta sum M' S C (F_s - F_t)^2
            + gamma (|S_s - S_t|_1 + |C_s - C_t|_1) + lam sum (R_s(F_s) - R_t(F_t))^2

    ``M'`` is the background, scaled to sum 1; ``R`` a global context block of each side. Sums run
    over an image; the mean is over images, the sum over levels. Weights and temperature are the
    published ones of the detector's kind (two-stage, anchor-based, anchor-free); docs/methods/fgd.md
    says of which pairs.

    Difference from the authors' code: boxes are placed relative to the padded batch that the maps
    are of, not to the image without its padding, so that masks lie on the objects.

    Args:
        alpha: weight of the foreground.
        beta: weight of the background.
        gamma: weight of the attention.
        lam: weight of the relation.
        temperature: T; by default 0.8 for anchor-free detectors and 0.5 otherwise.
        **options: see :class:`FeatureMethod`.

    >>> FGD(temperature=0.5).temperature
    0.5
    """

    def __init__(
        self,
        alpha: NonNegative | None = None,
        beta: NonNegative | None = None,
        gamma: NonNegative | None = None,
        lam: NonNegative | None = None,
        temperature: Positive | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        given = dict(alpha=alpha, beta=beta, gamma=gamma, lam=lam)
        self._given = {name: value for name, value in given.items() if value is not None}
        self.temperature = temperature
        self.terms: nn.Module | None = None

    def reads_labels(self, student: nn.Module) -> str | None:
        return 'FGD looks at the objects in the images'

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Build adapters and the relation blocks, with the weights published for the detector."""
        assert teacher is not None
        refuse_other_task(self, student, 'detection')
        super().setup(student, teacher)
        weights = focal_weights(student.model, self._given)
        channels = channels_of(teacher, self.teacher_taps)
        self.temperature = self.temperature or focal_temperature(student.model)
        self.terms = FocalGlobalLevels(channels, weights, self.temperature)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The focal and global terms of all levels."""
        assert self.terms is not None
        return self.terms(self.pairs(step), step.samples, step.inputs.shape[-2:])
