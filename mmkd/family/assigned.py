"""Which anchors or points a dense head's own loss takes for objects, read where that loss is called."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .heads import logit_head
from .taps import Features, Tap

LOSSES = ('loss_cls', 'initial_loss_cls')
"""Where a dense head keeps the loss of its classes; TOOD has one of its own for the first epochs."""


def class_loss_taps(model: nn.Module) -> list[Tap]:
    """What a dense head's class loss is given; nothing passes there in a dry run."""
    head = logit_head(model)
    names = [name for name in LOSSES if isinstance(getattr(head, name, None), nn.Module)]
    if not names:
        raise InputError(
            f'{type(head).__name__} has no module loss_cls, whose labels tell which anchors or points '
            'hold objects; kd and the feature methods (pkd, cwd) do without'
        )
    return [Tap(f'bbox_head.{name}', source='input') for name in names]


def positive_rows(student: Features, taps: list[Tap], model: Any) -> Tensor:
    """Which rows of the class loss hold an object, all levels one after the other: [N], bool.

    Targets are labels (the background's is the largest), labels with a quality, or a chance for each class.
    """
    classes = logit_head(model).num_classes
    calls = [call for tap in taps if student.passed(tap) for call in student.calls(tap)]
    rows = [_positive(call[1], classes) for call in calls]
    if rows:
        return torch.cat(rows)
    return torch.zeros(0, dtype=torch.bool, device=student.tensors()[0].device)


def _positive(target: Any, classes: Any) -> Tensor:
    labels: Tensor = target[0] if isinstance(target, (tuple, list)) else target
    if labels.dim() > 1:
        return (labels > 0).any(-1).flatten()
    return (labels >= 0) & (labels < classes)
