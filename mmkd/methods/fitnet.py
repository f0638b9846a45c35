"""FitNets: hints for thin deep nets (Romero et al., ICLR 2015)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..core.method import FeatureMethod
from ..registry import MODELS


@MODELS.register_module()
class FitNet(FeatureMethod):
    """Mean squared error between features.

    ``L = w sum_l mean((A_l(F_s) - F_t)^2)`` with a 1x1 convolution ``A_l`` where channels differ.

    Differences from the paper: all levels are trained together with the task instead of in a stage
    of their own before it, the mean replaces half the sum, and there is no regressor where the
    channels are the same already. The weight for classification is the usual one of later
    comparisons (100); for the other tasks it is ours (1).

    >>> FitNet(tap=dict(at='neck', levels=[0]), weight=2.0).weight(0.0)
    2.0
    """

    weights = {'classification': 100.0}

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean square error."""
        return F.mse_loss(student, teacher)
