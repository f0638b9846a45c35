"""What is made sure of losses before they are trained: that they are finite, and reach the student."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..collectives import any_over_ranks, on_any_rank, uploaded
from ..errors import InputError
from ..family.taps import Features
from .readings import Readings


def refuse_nonfinite(losses: Mapping[str, Any]) -> None:
    """Stop with the names of the terms that are NaN or infinite; the host waits for their values.

    >>> refuse_nonfinite({'loss_cls': torch.tensor(float('nan')), 'loss_bbox': torch.ones(())})
    Traceback (most recent call last):
    ...
    FloatingPointError: not finite: loss_cls = nan
    """
    if losses:
        refuse_bad(dict(zip(losses, totals_of(losses).tolist())))


def refuse_bad(totals: Mapping[str, float]) -> None:
    """Stop with the names of the numbers that are NaN or infinite."""
    bad = [f'{name} = {value}' for name, value in totals.items() if not math.isfinite(value)]
    if bad:
        raise FloatingPointError('not finite: ' + ', '.join(bad))


def settle(*verdicts: Readings) -> None:
    """Wait for what is still to be said of losses, and stop if one was not finite on any rank."""
    found = {name: value for verdict in verdicts for name, value in verdict.rest().items()}
    if found and on_any_rank(any(not math.isfinite(value) for value in found.values()))[0]:
        refuse_bad(found)
        raise FloatingPointError('not finite: a loss of another rank')


def totals_of(losses: Mapping[str, Any]) -> Tensor:
    """The value of each loss, lists summed; on the device of those that are on one.

    >>> totals_of({'loss_cls': [torch.ones(()), torch.ones(())], 'acc': torch.zeros(1)})
    tensor([2., 0.])
    """
    totals = [
        torch.stack([v.detach().float().sum() for v in tensors_of(value)]).sum()
        for value in losses.values()
    ]
    device = max((t.device for t in totals), key=lambda device: device.type != 'cpu')
    return torch.stack([uploaded(total, device) for total in totals])


class Weighty:
    """Tells which terms have weight: not before their ramps, nor where a rank's images hold no objects.

    >>> Weighty()({'a': torch.zeros(()), 'b': torch.ones(())})
    {'a': (False, True), 'b': (True, False)}
    """

    def __init__(self) -> None:
        self._readings = Readings()

    def __call__(self, terms: Mapping[str, Tensor]) -> dict[str, tuple[bool, bool]]:
        """For each term whether it counts on all ranks, and whether it is 0 on this one."""
        if not terms:
            return {}
        silent = torch.stack([~term.detach().any() for term in terms.values()]).float()
        flags = torch.stack([any_over_ranks(silent), silent], 1)
        return {
            term: (not lacks, bool(none))
            for term, (lacks, none) in self._readings([*terms], flags).items()
        }


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
