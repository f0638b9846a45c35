"""Where DPK injects: the levels' strides and names."""

from __future__ import annotations

import math

import torch

from ...core.levels import levels_of
from ...core.step import Side
from ...errors import InputError
from ...family.taps import Tap
from ...necks.adapters import as_map


def strides_of(side: Side, taps: list[Tap]) -> list[int]:
    """How many pixels a cell of each level stands for; a level without a grid is refused."""
    strides = []
    for what, shape in levels_of(side, taps):
        if len(shape) == 2:
            raise InputError(
                f'DPK: {what} of {side.owner} is a vector {tuple(shape)}, a 1x1 map; prior knowledge '
                'is injected into maps, so tap a place before the pooling '
                '(tools/list_taps.py CONFIG)'
            )
        width = as_map(torch.empty(shape, device='meta'), what).shape[-1]
        strides.append(2 ** round(math.log2(side.image / width)))
    return strides


def names_of(strides: list[int], side: Side, taps: list[Tap], detection: bool) -> list[str]:
    """``P5`` for a detector's level of stride 32, the stage's name for a classifier's."""
    if detection and len(set(strides)) == len(strides):
        return [f'P{int(math.log2(stride))}' for stride in strides]
    names = []
    for tap in taps:
        count, last = len(side.shapes[tap]), tap.at.split('.')[-1]
        stage = f'stage{last}' if last.isdigit() else last
        names += [stage] if count == 1 else [f'{stage}.{i}' for i in range(count)]
    return names
