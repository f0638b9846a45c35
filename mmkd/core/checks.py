"""What is made sure of losses before they are trained: that they are finite, and reach the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..collectives import on_any_rank
from ..errors import InputError
from ..family.taps import Features


def refuse_nonfinite(losses: Mapping[str, Any]) -> None:
    """Stop with the names of the terms that are NaN or infinite.

    >>> refuse_nonfinite({'loss_cls': torch.tensor(float('nan')), 'loss_bbox': torch.ones(())})
    Traceback (most recent call last):
    ...
    FloatingPointError: not finite: loss_cls = nan
    """
    totals = {
        name: sum((v.detach().float().sum() for v in tensors_of(value)), torch.zeros(()))
        for name, value in losses.items()
    }
    if not totals or torch.stack([t.to(_device(totals)) for t in totals.values()]).isfinite().all():
        return
    bad = [f'{name} = {value.item()}' for name, value in totals.items() if not value.isfinite()]
    raise FloatingPointError('not finite: ' + ', '.join(bad))


def have_weight(terms: Sequence[Tensor]) -> list[bool]:
    """Whether each term counts yet on all ranks: not before its ramp, nor where one's images hold no objects.

    >>> have_weight([torch.zeros(()), torch.ones(())])
    [False, True]
    """
    if not terms:
        return []
    counts = torch.stack([term.detach().any() for term in terms]).tolist()
    return [not lacking for lacking in on_any_rank(*(not own for own in counts))]


def refuse_unreaching(term: str, loss: Tensor, features: Features) -> None:
    """Stop if a loss gives no gradient to any of the student's tapped features."""
    tensors = [t for t in features.tensors() if t.requires_grad]
    if loss.requires_grad and tensors:
        grads = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
        if any(grad is not None and bool(grad.any()) for grad in grads):
            return
    raise InputError(
        f'{term}: its gradient does not reach the student, so it would train nothing. Either its '
        'taps lie in a frozen or detached part of the student, or teacher and student agree '
        'already. To train nevertheless: check_gradients=False in the Distiller'
    )


def tensors_of(value: Any) -> list[Tensor]:
    """A loss as a list of tensors; heads with several levels give lists.

    >>> tensors_of(torch.ones(()))
    [tensor(1.)]
    """
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _device(totals: Mapping[str, Tensor]) -> torch.device:
    return max((t.device for t in totals.values()), key=lambda device: device.type != 'cpu')
