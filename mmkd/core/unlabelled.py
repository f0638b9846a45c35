"""Distillation without labels: the student's own losses are off, and what no tap depends on is frozen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..family.blanks import blank_batch
from ..family.running import observe
from ..family.taps import Tap
from .method import Method
from .step import Side


def refuse_readers_of_labels(methods: Mapping[str, Method], student: Side) -> None:
    """Stop if a method reads labels or the student's losses, which there are none of."""
    for name, method in methods.items():
        reason = method.reads_labels(student.model)
        if method.share is not None:
            reason = "weight='auto' measures against the student's own losses"
        if reason is not None:
            raise InputError(
                f'methods.{name}: {reason}, and without labels (labels=False, --no-labels) there are none; '
                'take a feature method (pkd, cwd, fitnet, at)'
            )


def freeze_unreached(student: nn.Module, taps: Iterable[Tap], image: int) -> int:
    """Freeze the parameters that no tap depends on (heads); how many tensors they are.

    They would get no gradient, for which distributed training waits, or decay by their weight alone.
    """
    taps = list(taps)
    trained = [p for p in student.parameters() if p.requires_grad]
    modes = {module: module.training for module in student.modules()}
    student.eval()
    with torch.enable_grad():
        features = observe(student, taps, *blank_batch(student, image))
        total = torch.stack([t.float().sum() for tap in taps for t in features[tap]]).sum()
        grads = torch.autograd.grad(total, trained, allow_unused=True)
    for module, training in modes.items():
        module.training = training
    idle = [p for p, grad in zip(trained, grads) if grad is None]
    for parameter in idle:
        parameter.requires_grad_(False)
    return len(idle)


def nothing(student: nn.Module) -> dict[str, Tensor]:
    """A loss of 0 that all trained parameters have part in: no method has weight yet.

    >>> bool(nothing(nn.Linear(1, 1))['loss_none'] == 0)
    True
    """
    parts = [p.sum() for p in student.parameters() if p.requires_grad]
    return {'loss_none': 0.0 * torch.stack(parts).sum()}
