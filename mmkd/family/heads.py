"""Where a model of the OpenMMLab family makes its class logits, and of what kind they are."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from ..errors import InputError
from .stages import task_of
from .taps import Tap

HEATMAPS = 'GaussianFocalLoss'
"""The loss of heads (CenterNet, CornerNet) in which each class has a map of its own."""


def head_kind(model: nn.Module) -> str:
    """How a model's class logits are laid out: ``vector``, ``pixel``, ``roi``, ``dense`` or ``query``."""
    task = task_of(model)
    if task == 'segmentation':
        return 'pixel'
    if task != 'detection':
        return 'vector'
    if hasattr(model, 'roi_head'):
        return 'roi'
    names = {base.__name__ for base in type(model).__mro__}
    return 'query' if 'DetectionTransformer' in names else 'dense'


def logit_taps(model: Any) -> list[Tap]:
    """Where a model's class logits pass."""
    kind = head_kind(model)
    if kind == 'vector':
        return [Tap('head')]
    if kind == 'pixel':
        return [_pixel_tap(model)]
    if kind == 'query':
        return [Tap('bbox_head')]
    if kind == 'dense':
        return [Tap('bbox_head', item=0)]
    refuse_queries(model.roi_head)
    head = model.roi_head.bbox_head
    stages = [f'.{i}' for i in range(len(head))] if isinstance(head, nn.ModuleList) else ['']
    return [Tap(f'roi_head.bbox_head{stage}', item=0) for stage in stages]


def _pixel_tap(model: Any) -> Tap:
    """The last map of class logits; some heads (DDRNet, PIDNet) give others beside it in training."""
    several = isinstance(model.decode_head, nn.ModuleList)
    names = (
        [f'decode_head.{i}' for i in range(len(model.decode_head))] if several else ['decode_head']
    )
    for name in reversed(names):
        if hasattr(model.get_submodule(name), 'conv_seg'):
            # a head before the last (PointRend's) runs once more for the one behind it
            return Tap(f'{name}.conv_seg', levels=None if name == names[-1] else (0,))
    last = model.get_submodule(names[-1])
    asked = inspect.signature(last.forward).parameters.values()
    needed = [p for p in asked if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(needed) > 1:  # maps, and samples
        raise InputError(
            f'{type(last).__name__} gives masks by queries and no map of class logits; a feature method (pkd, '
            'cwd, fitnet) fits it'
        )
    return Tap(names[-1], levels=(-1,))


def logit_head(model: Any) -> nn.Module:
    """The module that makes a model's class logits; a cascade's first, a multi-head segmentor's last."""
    if hasattr(model, 'roi_head'):
        head = model.roi_head.bbox_head
        return head[0] if isinstance(head, nn.ModuleList) else head
    for name in ('bbox_head', 'head', 'decode_head'):
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            return head[-1] if isinstance(head, nn.ModuleList) else head
    raise InputError(
        f'{type(model).__name__} has no head with class logits (bbox_head, roi_head, head, '
        'decode_head); a feature method (pkd, cwd, fitnet) fits it'
    )


def refuse_queries(roi_head: Any) -> None:
    """Stop if a RoI head scores no boxes but those that its own queries came with (Sparse R-CNN, QueryInst)."""
    asked = inspect.signature(roi_head._bbox_forward).parameters.values()
    others = {p.name for p in asked if p.default is p.empty} - {'stage', 'x', 'rois'}
    if others:
        raise InputError(
            f'{type(roi_head).__name__} scores boxes by queries of its own ({", ".join(sorted(others))}), so '
            'that two of them do not score the same boxes; a feature method (pkd, cwd, fitnet) fits it'
        )


def class_count(model: Any) -> tuple[str, int | None]:
    """Where a model's class logits are made, and for how many classes; None if it does not tell."""
    for name in ('roi_head', 'bbox_head', 'head', 'decode_head'):
        if isinstance(getattr(model, name, None), nn.Module):
            inner = 'roi_head.bbox_head' if name == 'roi_head' else name
            count = getattr(logit_head(model), 'num_classes', None)
            return inner, count if isinstance(count, int) else None
    return '', None


def is_sigmoid(head: nn.Module) -> bool:
    """Whether a head's classes are independent (sigmoid) or exclusive (softmax)."""
    if hasattr(head, 'use_sigmoid_cls'):
        return bool(head.use_sigmoid_cls)
    if any(base.__name__ == 'MultiLabelClsHead' for base in type(head).__mro__):
        return True
    if any(type(loss).__name__ == HEATMAPS for loss in head.children()):
        return True
    losses = (getattr(head, name, None) for name in ('loss_cls', 'loss_module', 'loss_decode'))
    return any(bool(getattr(loss, 'use_sigmoid', False)) for loss in losses)


def definer(part: Any, function: str) -> str | None:
    """The name of the class that an object has a function from.

    >>> definer(nn.Linear(1, 1), 'forward'), definer(nn.Linear(1, 1), 'eval')
    ('Linear', 'Module')
    """
    bases = (base for base in type(part).__mro__ if function in vars(base))
    return next((base.__name__ for base in bases), None)
