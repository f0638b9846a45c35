"""What a model of the family is for, and the stages of its backbone."""

from __future__ import annotations

from typing import Any

from torch import nn

from .taps import Tap

TASKS = {
    'BaseDetector': 'detection',
    'BaseClassifier': 'classification',
    'BaseSegmentor': 'segmentation',
}


def task_of(model: nn.Module) -> str:
    """``detection``, ``classification``, ``segmentation`` or ``other``, by the family's base classes."""
    names = [base.__name__ for base in type(model).__mro__]
    return next((TASKS[name] for name in names if name in TASKS), 'other')


def stage_taps(model: nn.Module) -> list[Tap]:
    """One tap for each stage of a model's backbone, shallow to deep.

    Stages are what a backbone lists in ``res_layers`` or keeps as modules ``stages.0``,
    ``stages.1``, ...; a transformer that lists its blocks in ``layers`` has four stages of as many
    blocks each. For any other backbone its outputs are taken.
    """
    backbone: Any = model.backbone
    if hasattr(backbone, 'res_layers'):
        return [Tap(f'backbone.{name}') for name in backbone.res_layers]
    if isinstance(getattr(backbone, 'stages', None), (nn.ModuleList, nn.Sequential)):
        return [Tap(f'backbone.stages.{index}') for index in range(len(backbone.stages))]
    blocks = getattr(backbone, 'layers', None)
    if isinstance(blocks, nn.ModuleList) and len(blocks) >= 4:
        return [Tap(f'backbone.layers.{len(blocks) * i // 4 - 1}') for i in (1, 2, 3, 4)]
    return [Tap('backbone')]
