"""The divergence of class probabilities in two parts: the label's class against the others, and among these."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .kl import softmax_kl

LEFT_OUT = -1000.0
"""Added to the label's logit where only the others count."""


def decoupled_kl(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """``T^2 KL`` of the label's class against all others, and among the others, of each row: [N] each.

    Args:
        student: logits [N, C].
        teacher: logits [N, C].
        labels: classes [N].
        temperature: T.

    >>> s, t = torch.zeros(1, 3), torch.zeros(1, 3)
    >>> decoupled_kl(s, t, torch.tensor([1]), 4.0)
    (tensor([0.]), tensor([0.]))
    """
    own = F.one_hot(labels, student.shape[1]).bool()
    s, t = (_against_the_rest(side / temperature, own) * temperature for side in (student, teacher))
    others = LEFT_OUT * temperature * own
    return softmax_kl(s, t, temperature), softmax_kl(
        student + others, teacher + others, temperature
    )


def _against_the_rest(logits: Tensor, own: Tensor) -> Tensor:
    """Logits [N, 2] of a class and of all others together."""
    rest = logits.masked_fill(own, -float('inf')).logsumexp(-1)
    own_logit = logits.gather(-1, own.int().argmax(-1, keepdim=True)).squeeze(
        -1
    )  # no mask: it is waited for
    return torch.stack([own_logit, rest], -1)
