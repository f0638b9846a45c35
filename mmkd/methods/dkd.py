"""DKD: decoupled knowledge distillation (CVPR 2022)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..core.classifying import ClassifierMethod
from ..core.options import NonNegative
from ..core.step import Step
from ..losses.decoupled import decoupled_kl
from ..necks.self_teacher import targets
from ..registry import MODELS


@MODELS.register_module()
class DKD(ClassifierMethod):
    """The label's class against all others, and the others among themselves, each with a weight of its own.

    ``L = alpha T^2 KL(b_t || b_s) + beta T^2 KL(p_t || p_s)``, the mean over images: ``b`` the chances of the
    label's class and of all others together, ``p`` the chances of the others alone, softened by T.

    Published for CIFAR-100: T = 4, alpha 1, beta 8 for most pairs; for ImageNet T = 1, beta 0.5. Where
    labels are mixed, the class with the largest share is the label's (ours).

    Args:
        alpha: weight of the label's class against the others.
        beta: weight of the others among themselves.
        **options: see :class:`ClassifierMethod`.

    >>> DKD(beta=2.0).temperature, DKD(standardize=True).temperature
    (4.0, 2.0)
    """

    def __init__(self, alpha: NonNegative = 1.0, beta: NonNegative = 8.0, **options: Any) -> None:
        super().__init__(**options)
        self.alpha, self.beta = alpha, beta

    def reads_labels(self, student: nn.Module) -> str | None:
        return "DKD tells the label's class from the others"

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Both terms that have weight."""
        student, teacher = self.logits(step)
        labels = targets(step.samples).to(student.device)
        labels = labels.argmax(1) if labels.is_floating_point() else labels
        labels = labels.repeat(len(student) // len(labels))
        target, others = decoupled_kl(student, teacher, labels, self.temperature)
        terms = dict(loss_target=(self.alpha, target), loss_others=(self.beta, others))
        return {name: weight * term.mean() for name, (weight, term) in terms.items() if weight}
