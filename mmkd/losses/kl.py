"""Kullback-Leibler divergences from a teacher's answer to a student's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SMALLEST = 1e-7
"""Added to a deviation, so that a row without any has a gradient."""


def softmax_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 KL(softmax(t / T) || softmax(s / T))`` of each row of class logits, summed over classes.

    >>> import torch
    >>> softmax_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([0.])
    """
    log_student = F.log_softmax(student / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher / temperature, dim=-1)
    divergence = F.kl_div(log_student, log_teacher, reduction='none', log_target=True)
    return divergence.sum(-1) * temperature**2


def standardized(logits: Tensor) -> Tensor:
    """Rows of logits with mean 0 and deviation 1, so that only their pattern is compared.

    >>> import torch
    >>> standardized(torch.tensor([[1.0, 2.0, 3.0]])).round()
    tensor([[-1.,  0.,  1.]])
    """
    spread = logits.std(-1, keepdim=True)
    return (logits - logits.mean(-1, keepdim=True)) / (spread + SMALLEST)


def binary_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 KL`` between the Bernoulli variables ``sigmoid(t / T)`` and ``sigmoid(s / T)``, elementwise.

    >>> import torch
    >>> binary_kl(torch.zeros(2), torch.zeros(2))
    tensor([0., 0.])
    """
    if temperature != 1:
        student, teacher = student / temperature, teacher / temperature
    crossed = F.softplus(student) - F.softplus(teacher)
    divergence = teacher.sigmoid() * (teacher - student) + crossed
    return divergence if temperature == 1 else divergence * temperature**2


def channel_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL between channels as distributions over positions, mean over images and channels.

    ``T^2 / (B C) sum_bc KL(softmax_hw(t_bc / T) || softmax_hw(s_bc / T))``

    >>> import torch
    >>> channel_kl(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))
    tensor(0.)
    """
    return softmax_kl(student.flatten(2), teacher.flatten(2), temperature).mean()
