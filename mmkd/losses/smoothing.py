"""Dynamic label smoothing, as a term that is added to a cross entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LabelLoss:
    """A mean cross entropy of labels, with its arguments in the order of mmpretrain's and mmdet's.

    Attributes:
        weight: what the student's loss multiplies the mean by.
        class_weight: its weights of the classes.
        background: from which label on there is no object, whose label is not smoothed; None where
            all rows are smoothed.
    """

    weight: float = 1.0
    class_weight: Sequence[float] | None = None
    background: int | None = None

    def smoothed(
        self, largest: float, logits: Tensor, target: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor]:
        """What one call of the loss grows by, and the rates of the rows that are smoothed.

        The rate is ``largest stop_gradient(<softmax(logits), y>)``: nothing where a row is not
        learnt. Cross entropy is linear in its target, so that with ``(1 - rate) y + rate / K``
        instead of ``y`` it grows by ``rate (mean_k(-log p_k) - CE)``, whatever ``y`` is.

        Args:
            largest: the rate of a row that is certain.
            logits: [N, K].
            target: labels [N], or soft labels [N, K] (mixup, cutmix).
            *rest: weights of the rows, or the number that their sum is divided by, or both.

        >>> import torch
        >>> LabelLoss().smoothed(0.1, torch.zeros(1, 2), torch.tensor([1]))
        (tensor(0.), tensor([0.0500]))
        """
        logits, soft = logits.float(), target.is_floating_point()
        y = target if soft else F.one_hot(target.flatten(), logits.shape[1]).float()
        rate = largest * (logits.detach().softmax(1) * y).sum(1)
        chosen = None
        if self.background is not None:
            chosen = (target >= 0) & (target < self.background)
            rate = rate * chosen
        surprise = -logits.log_softmax(1)
        if self.class_weight is not None:
            surprise = surprise * logits.new_tensor(self.class_weight)
        grown = rate * (surprise.mean(1) - (surprise * y).sum(1))
        for rows in rest:
            if isinstance(rows, Tensor):
                grown = grown * rows
        counts = [value for value in rest if isinstance(value, (int, float))]
        count = counts[0] if counts else max(len(logits), 1)
        return self.weight / count * grown.sum(), rate if chosen is None else rate[chosen]
