"""Dynamic label smoothing, as a term that is added to a cross entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MODES = ('confidence', 'ramp', 'constant')


def soft_target(target: Tensor, classes: int) -> Tensor:
    """Labels [N] as one-hot rows [N, K]; rows that are soft already (mixup, cutmix) stay.

    >>> soft_target(torch.tensor([1]), 3)
    tensor([[0., 1., 0.]])
    """
    if target.is_floating_point():
        return target
    return F.one_hot(target.flatten(), classes).float()


@torch.no_grad()
def smoothing_rate(
    logits: Tensor, target: Tensor, largest: float, progress: float, mode: str = 'confidence'
) -> Tensor:
    """How much each sample's label is smoothed: [N].

    - ``confidence``: ``largest * progress * <softmax(logits), target>``: nothing at the start, and
      nothing where a sample is not learnt.
    - ``ramp``: ``largest * progress``.
    - ``constant``: ``largest``.

    Args:
        logits: [N, K].
        target: rows of class probabilities [N, K].
        largest: the rate at the end of training for a sample that is certain.
        progress: how far training is, from 0 to 1.
        mode: one of the above.

    >>> smoothing_rate(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), 0.2, 0.5)
    tensor([0.0500])
    """
    rate = largest * (1.0 if mode == 'constant' else min(1.0, progress))
    if mode != 'confidence':
        return logits.new_full(logits.shape[:1], rate)
    return rate * (logits.softmax(1) * target).sum(1)


def smoothing_difference(
    logits: Tensor, target: Tensor, rate: Tensor, class_weight: Tensor | None = None
) -> Tensor:
    """What smoothing adds to the cross entropy of each row: [N].

    Cross entropy is linear in its target, so that with ``(1 - rate) y + rate / K`` instead of ``y``
    it grows by ``rate (mean_k(-log p_k) - CE)``, whatever ``y`` is.

    >>> smoothing_difference(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([0.1]))
    tensor([0.])
    """
    surprise = -logits.log_softmax(1)
    if class_weight is not None:
        surprise = surprise * class_weight
    return rate * (surprise.mean(1) - (surprise * target).sum(1))


@dataclass
class LabelCall:
    """One call of a loss of class labels.

    Attributes:
        logits: [N, K].
        target: [N, K].
        smoothed: which rows are smoothed [N].
        scale: what each row's cross entropy is multiplied by in the student's loss [N].
        class_weight: [K], if classes count differently.
    """

    logits: Tensor
    target: Tensor
    smoothed: Tensor
    scale: Tensor
    class_weight: Tensor | None

    def difference(self, rate: Tensor) -> Tensor:
        """What the student's loss grows by if rows are smoothed at these rates."""
        grown = smoothing_difference(self.logits, self.target, rate, self.class_weight)
        return (grown * self.scale).sum()


def label_call(
    weight: float,
    class_weight: Sequence[float] | None,
    background: int | None,
    logits: Tensor,
    target: Tensor,
    *rest: Any,
) -> LabelCall:
    """Read ``logits, target, weight, avg_factor``, as mmpretrain and mmdet pass them in this order.

    Args:
        weight: what the student's loss multiplies the mean by.
        class_weight: its weights of the classes.
        background: from which label on there is no object, whose label is not smoothed.
        logits: [N, K].
        target: labels [N] or soft labels [N, K].
        *rest: weights of the rows, or the number that their sum is divided by, or both.

    >>> label_call(1.0, None, 1, torch.zeros(2, 2), torch.tensor([0, 1]), 4.0).scale
    tensor([0.2500, 0.2500])
    """
    logits = logits.float()
    weights = [value.float() for value in rest if isinstance(value, Tensor)]
    counts = [value for value in rest if isinstance(value, (int, float))]
    scale = weights[0] if weights else logits.new_ones(len(logits))
    smoothed = torch.ones_like(scale, dtype=torch.bool)
    if background is not None:
        smoothed = (target >= 0) & (target < background)
    return LabelCall(
        logits,
        soft_target(target, logits.shape[1]),
        smoothed,
        scale * weight / (counts[0] if counts else max(len(logits), 1)),
        None if class_weight is None else logits.new_tensor(class_weight),
    )
