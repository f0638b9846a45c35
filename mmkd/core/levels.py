"""Levels at taps: which there are, of which stride, and which of two networks are compared."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from mmengine.logging import print_log
from torch import Size

from ..errors import InputError
from ..family.taps import Tap
from ..necks.adapters import as_map
from .step import Side

ALIKE = 0.5
"""Strides whose logarithms to base 2 differ by less are compared: 14 and 16 are, 8 and 16 are not."""


def levels_of(side: Side, taps: list[Tap]) -> list[tuple[str, Size]]:
    """Each level at some taps, as words and shape."""
    return [
        (f'tap {tap.at!r} level {level}', shape)
        for tap in taps
        for level, shape in zip(tap.levels or range(len(side.shapes[tap])), side.shapes[tap])
    ]


def channels_of(side: Side, taps: list[Tap]) -> list[int]:
    """The channels of each level at some taps."""
    blanks = (torch.empty(shape, device='meta') for _, shape in levels_of(side, taps))
    return [as_map(blank).shape[1] for blank in blanks]


def sizes_at(side: Side, taps: list[Tap]) -> list[tuple[int, int]]:
    """Height and width of each level at some taps."""
    blanks = (torch.empty(shape, device='meta') for _, shape in levels_of(side, taps))
    return [tuple(as_map(blank).shape[-2:]) for blank in blanks]  # type: ignore[misc]


SEVERAL = (
    ": tap=['backbone.layer3', 'backbone.layer4'] names them (tools/list_taps.py CONFIG), or let the backbone "
    'give several (out_indices)'
)


def refuse_unordered(method: str, side: Side, taps: list[Tap], cure: str = SEVERAL) -> None:
    """Stop if the maps at some taps are a single one, or if deeper ones are larger."""
    sizes = sizes_at(side, taps)
    where = f'{side.owner} at {", ".join(repr(tap.at) for tap in taps)}'
    if len(sizes) < 2:
        raise InputError(
            f'{method}: a single level {sizes} of {where}; needed: two or more, shallow to deep{cure}'
        )
    if any(after > before for a, b in zip(sizes, sizes[1:]) for before, after in zip(a, b)):
        raise InputError(
            f'{method}: the maps of {where} grow: {sizes}; needed: shallow to deep, none larger than '
            'the one before; put them in order with tap=[...]'
        )


def pair_by_stride(
    label: str, student: Side, teacher: Side, taps: list[Tap], target_taps: list[Tap]
) -> tuple[list[Tap], list[Tap]]:
    """Taps of the levels of equal stride; the taps as they are where levels go together in order.

    They do where both networks have as many, unless they are detectors whose levels have other strides: those
    of stride 8 to 128 of a one-stage student are not those of stride 4 to 64 of a two-stage teacher. Of
    several levels of one stride the deepest is taken; where no strides are alike, the two nearest.
    """
    ours, theirs = _strides(student, taps), _strides(teacher, target_taps)
    in_order = len(ours) == len(theirs) and (
        student.task != 'detection'
        or any(tap.levels for tap in [*taps, *target_taps])
        or any(len(set(strides)) < len(strides) for strides in (ours, theirs))
        or all(abs(s - t) < ALIKE for s, t in zip(ours, theirs))
    )
    if in_order or not (ours and theirs):
        return taps, target_taps
    pairs = alike(ours, theirs)
    print_log(
        f'{label}: levels are paired by stride: {_words(student, ours, [i for i, _ in pairs])} with '
        f'{_words(teacher, theirs, [j for _, j in pairs])}',
        'current',
    )
    return (
        _narrowed(student, taps, [i for i, _ in pairs]),
        _narrowed(teacher, target_taps, [j for _, j in pairs]),
    )


def alike(ours: list[float], theirs: list[float]) -> list[tuple[int, int]]:
    """Pairs of indices of equal strides, which are given as logarithms; the nearest pair where none are.

    >>> alike([3, 4, 5, 6], [2, 3, 4, 5]), alike([3, 4, 5], [4, 4, 4]), alike([5], [3, 4])
    ([(0, 1), (1, 2), (2, 3)], [(1, 2)], [(0, 1)])
    """
    distances = {
        (i, j): abs(s - t)
        for i, s in _deepest(ours)
        for j, t in _deepest(theirs)
    }  # fmt: skip
    near = [pair for pair, distance in distances.items() if distance < ALIKE]
    return near or [min(distances, key=lambda pair: (distances[pair], -pair[0]))]


def _deepest(strides: list[float]) -> list[tuple[int, float]]:
    """Of levels of one stride the last."""
    return [
        (i, own)
        for i, own in enumerate(strides)
        if not any(abs(own - later) < ALIKE for later in strides[i + 1 :])
    ]


def _strides(side: Side, taps: list[Tap]) -> list[float]:
    """The logarithm to base 2 of each level's stride; nothing where a level is no map."""
    try:
        return [math.log2(side.image / size[1]) for size in sizes_at(side, taps)]
    except InputError:
        return []


def _narrowed(side: Side, taps: list[Tap], chosen: list[int]) -> list[Tap]:
    """A tap for each chosen level; its shape becomes known to the side."""
    single = []
    for tap in taps:
        for place, shape in zip(tap.levels or range(len(side.shapes[tap])), side.shapes[tap]):
            single.append((replace(tap, levels=(place,)), shape))
    for index in chosen:
        side.shapes.setdefault(single[index][0], [single[index][1]])
    return [single[index][0] for index in chosen]


def _words(side: Side, strides: list[float], chosen: list[int]) -> str:
    of = ', '.join(f'{2 ** strides[i]:.3g}' for i in chosen)
    left = [f'{2**s:.3g}' for i, s in enumerate(strides) if i not in chosen]
    return f'{of} of {side.owner}' + (f' (not {", ".join(left)})' if left else '')
