"""What a model of the family is for, and the stages of its backbone."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import InputError
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


def backbone_of(model: nn.Module) -> str:
    """The name of a model's backbone: ``backbone``, else the first module of a toolbox's ``backbones``.

    An image retriever keeps it in its ``image_encoder``, a semi-supervised detector in its ``student``.

    >>> backbone_of(nn.ModuleDict(dict(backbone=nn.ReLU())))
    'backbone'
    """
    if isinstance(getattr(model, 'backbone', None), nn.Module):
        return 'backbone'
    for name, module in model.named_modules():
        if name and 'backbones' in type(module).__module__.split('.'):
            return name
    raise InputError(
        f'{type(model).__name__} has no backbone; say where to read it with tap=... '
        '(tools/list_taps.py CONFIG prints all places)'
    )


def stage_taps(model: nn.Module) -> list[Tap]:
    """One tap for each stage of a model's backbone, shallow to deep.

    Stages are what a backbone lists in ``res_layers`` or keeps as modules ``stages.0``,
    ``stages.1``, ...; a transformer that lists its blocks in ``layers`` has four stages of as many
    blocks each. For any other backbone its outputs are taken.
    """
    name = backbone_of(model)
    backbone: Any = model.get_submodule(name)
    if hasattr(backbone, 'res_layers'):
        return [Tap(f'{name}.{layer}') for layer in backbone.res_layers]
    if isinstance(getattr(backbone, 'stages', None), (nn.ModuleList, nn.Sequential)):
        return [Tap(f'{name}.stages.{index}') for index in range(len(backbone.stages))]
    blocks = getattr(backbone, 'layers', None)
    if isinstance(blocks, nn.ModuleList) and len(blocks) >= 4:
        return [Tap(f'{name}.layers.{len(blocks) * i // 4 - 1}') for i in (1, 2, 3, 4)]
    return [Tap(name)]


def both_maps(
    student: nn.Module, teacher: nn.Module, taps: list[Tap], target_taps: list[Tap]
) -> tuple[list[Tap], list[Tap]]:
    """The last stages instead of the backbones' outputs, where one is a map and the other a vector."""
    outputs = [[Tap(backbone_of(model))] for model in (student, teacher)]
    if [taps, target_taps] != outputs or _gives_vectors(student) == _gives_vectors(teacher):
        return taps, target_taps
    return stage_taps(student)[-1:], stage_taps(teacher)[-1:]


def _gives_vectors(model: nn.Module) -> bool:
    """Whether one vector for each image leaves a backbone, as a ViT's class token does."""
    backbone = model.get_submodule(backbone_of(model))
    return getattr(backbone, 'out_type', None) in ('cls_token', 'avg_featmap')
