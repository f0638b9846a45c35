"""Stages of a backbone that lists none, found by what a dry run passes."""

from __future__ import annotations

from torch import Size, nn

from ..errors import InputError
from .running import all_taps
from .stages import backbone_of, stage_taps
from .taps import Tap

STAGES = 4


def several_stages(model: nn.Module) -> list[Tap]:
    """The stages of a model's backbone; of one that lists none and gives a single map, by their sizes.

    The place where a size of map is passed last ends a stage (MobileNets, RepVGG, VAN); the four deepest are
    taken. Maps within attention are those of single heads.
    """
    taps, name = stage_taps(model), backbone_of(model)
    if taps != [Tap(name)]:
        return taps
    try:
        passed = dict(all_taps(model))
    except InputError:  # of a size that its config alone tells
        return taps
    output = passed.get(name, [])
    if len(output) != 1 or len(output[0]) != 4:
        return taps
    ends = {
        shapes[0][-2:]: at
        for at, shapes in passed.items()
        if at.startswith(f'{name}.') and 'attn' not in at and [*map(_is_map, shapes)] == [True]
    }
    deepest = output[0][-2:]
    sizes = sorted((size for size in ends if min(size) >= min(deepest)), reverse=True)[-STAGES:]
    return [Tap(ends[size]) for size in sizes] if deepest in sizes and len(sizes) > 1 else taps


def _is_map(shape: Size) -> bool:
    """Whether a shape is a map of the one square image of a dry run."""
    return len(shape) == 4 and shape[0] == 1 and shape[2] == shape[3]
