"""DIST: knowledge distillation from a stronger teacher (NeurIPS 2022)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..core.classifying import ClassifierMethod
from ..core.options import NonNegative
from ..core.step import Step
from ..losses.pearson import pearson_distance, row_distance
from ..registry import MODELS


@MODELS.register_module()
class DIST(ClassifierMethod):
    """Class probabilities correlate with the teacher's, image by image and class by class.

    ``L = beta T^2 mean_b (1 - r(p_s[b], p_t[b])) + gamma T^2 mean_c (1 - r(p_s[:, c], p_t[:, c]))`` with
    Pearson's ``r`` and ``p = softmax(z / T)``; over the images of all ranks.

    Published: ImageNet T = 1, beta 1, gamma 1; CIFAR-100 T = 4, beta 2, gamma 2.

    Args:
        beta: weight of the correlation over the classes of an image.
        gamma: weight of the correlation over the images for a class.
        **options: see :class:`ClassifierMethod`.

    >>> DIST().temperature
    1.0
    """

    usual_temperature = 1.0

    def __init__(self, beta: NonNegative = 1.0, gamma: NonNegative = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.beta, self.gamma = beta, gamma

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Both terms that have weight."""
        s, t = ((z / self.temperature).softmax(1) for z in self.logits(step))
        factor, terms = self.temperature**2, {}
        if self.beta:
            terms['loss_inter'] = self.beta * factor * row_distance(s, t).mean()
        if self.gamma:
            # chances of a class may vary by a millionth: in units of the mean they count as what varies
            ours, theirs = (side[..., None, None] * side.shape[1] for side in (s, t))
            terms['loss_intra'] = self.gamma * factor * pearson_distance(ours, theirs)
        return terms
