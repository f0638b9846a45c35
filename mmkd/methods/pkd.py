"""PKD: general distillation framework for object detectors via Pearson correlation (NeurIPS 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.method import FeatureMethod
from ..core.step import Step
from ..losses.pearson import pearson_distances
from ..registry import MODELS


@MODELS.register_module()
class PKD(FeatureMethod):
    """Features correlate with the teacher's, whatever their scale and offset.

    ``L = w sum_l mean_c (1 - r(F_s, F_t))`` with Pearson's ``r`` of each channel over images and
    positions; that is half the mean squared error of the standardised maps.

    Difference from the paper: the standard deviation is the population's, which makes the two forms
    exactly equal. The weight for detection is the one published for Faster R-CNN (6; for RetinaNet it is
    10), on all levels where the authors take the first four; for the other tasks it is 1, ours.

    >>> PKD().weights['detection']
    6.0
    """

    weights = {'detection': 6.0}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The distances of all levels, summed; see :func:`pearson_distances`."""
        return {'loss': torch.stack(pearson_distances(self.pairs(step))).sum()}
