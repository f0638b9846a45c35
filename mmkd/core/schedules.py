"""Weights over training progress: 0 at the first iteration, 1 at the end.

A weight in a config is a number or a schedule: ``weight=2.0`` or
``weight=dict(type='Ramp', value=2.0, until=0.1)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

from mmengine.logging import MessageHub

from ..errors import InputError, nearest
from ..registry import SCHEDULES
from .options import UNREADABLE, NonNegative, ReadBy, Share, check_options

SHAPES = {
    'linear': lambda x: x,
    'cosine': lambda x: 0.5 * (1 - math.cos(math.pi * x)),
    'sigmoid': lambda x: math.exp(-5 * (1 - x) ** 2),
}


class Schedule(Protocol):
    """A function from progress in [0, 1] to a weight."""

    def __call__(self, progress: float) -> float: ...


class Constant:
    """The same weight all the time.

    >>> Constant(2.0)(0.5)
    2.0
    """

    def __init__(self, value: float) -> None:
        self.value = _weight(value)

    def __call__(self, progress: float) -> float:
        return self.value


@SCHEDULES.register_module()
class Ramp:
    """From ``start`` to ``value`` between two points of progress; a warm-up when both are early.

    ``shape`` is ``linear``, ``cosine`` or ``sigmoid`` (``exp(-5 (1 - x)^2)``, which starts at
    0.0067 of the way).

    >>> ramp = Ramp(2.0, begin=0.5, until=1.0)
    >>> [ramp(0.25), ramp(0.75), ramp(1.0)]
    [0.0, 1.0, 2.0]
    """

    def __init__(
        self,
        value: NonNegative,
        begin: Annotated[float, Share()] = 0.0,
        until: Annotated[float, Share()] = 0.1,
        start: NonNegative = 0.0,
        shape: Literal['linear', 'cosine', 'sigmoid'] = 'linear',
    ) -> None:
        if not 0 <= begin < until <= 1:
            raise InputError(f'Ramp: begin={begin}, until={until}; needed: 0 <= begin < until <= 1')
        self.value, self.start = _weight(value), _weight(start)
        self.begin, self.until, self.shape = begin, until, SHAPES[shape]

    def __call__(self, progress: float) -> float:
        x = (progress - self.begin) / (self.until - self.begin)
        if x < 0:
            return self.start
        return self.start + (self.value - self.start) * self.shape(min(x, 1.0))


@SCHEDULES.register_module()
class CutOff:
    """A weight until a point of progress, zero from there on.

    >>> [CutOff(2.0, at=0.9)(0.5), CutOff(2.0, at=0.9)(0.9)]
    [2.0, 0.0]
    """

    def __init__(self, value: NonNegative, at: Annotated[float, Share()]) -> None:
        if not 0 < at <= 1:
            raise InputError(f'CutOff: at={at}; needed: 0 < at <= 1')
        self.value, self.at = _weight(value), at

    def __call__(self, progress: float) -> float:
        return self.value if progress < self.at else 0.0


@SCHEDULES.register_module()
class Piecewise:
    """Straight lines between ``(progress, weight)`` points; flat before the first and after the last.

    >>> Piecewise([(0.0, 0.0), (0.1, 2.0), (0.9, 2.0), (1.0, 0.0)])(0.05)
    1.0
    """

    def __init__(self, points: Sequence[Sequence[float]]) -> None:
        places = [point[0] for point in points]
        if len(points) < 2 or sorted(set(places)) != places or places[0] < 0 or places[-1] > 1:
            raise InputError(
                f'Piecewise: points={list(points)!r}; needed: two or more (progress, weight) pairs, '
                'progress rising within [0, 1]'
            )
        self.points = [(place, _weight(weight)) for place, weight in points]

    def __call__(self, progress: float) -> float:
        if progress <= self.points[0][0]:
            return self.points[0][1]
        for (x0, y0), (x1, y1) in zip(self.points, self.points[1:]):
            if progress <= x1:
                return y0 + (y1 - y0) * (progress - x0) / (x1 - x0)
        return self.points[-1][1]


def build_schedule(weight: Any) -> Schedule:
    """Turn the ``weight`` of a config into a schedule.

    >>> build_schedule(3)(0.5)
    3.0
    >>> build_schedule(dict(type='CutOff', value=1.0, at=0.5))(0.7)
    0.0
    """
    if weight == 'auto':
        weight = dict(type='GradientShare')
    if isinstance(weight, Mapping):
        return _build_from_config(dict(weight))
    if callable(weight):
        return weight
    return Constant(weight)


Weight = Annotated[Any, ReadBy(build_schedule, "a finite number >= 0, 'auto', or a schedule")]
"""What an option may be that :func:`build_schedule` reads."""


def progress() -> float:
    """How far the running training is, from the Runner's message hub; 0 where nothing runs."""
    hub = MessageHub.get_current_instance()
    total = hub.get_info('max_iters', 0)
    return min(1.0, hub.get_info('iter', 0) / total) if total else 0.0


def iterations_left() -> int:
    """How many iterations the running training has yet; 0 where nothing runs."""
    hub = MessageHub.get_current_instance()
    return max(hub.get_info('max_iters', 0) - hub.get_info('iter', 0), 0)


def _build_from_config(config: dict[str, Any]) -> Schedule:
    known = sorted(SCHEDULES.module_dict)
    kind = str(config.get('type', '')).removeprefix('mmkd.')
    if kind not in known:
        raise InputError(f'unknown schedule {kind!r}; {nearest(kind, known)}')
    config.pop('type')
    check_options(kind, SCHEDULES.module_dict[kind], config)
    try:
        return SCHEDULES.module_dict[kind](**config)
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f'{kind} cannot be built from {config}: {error}') from error


def _weight(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise InputError(
            f"{value!r} is no weight; needed: a finite number >= 0, 'auto', or a schedule"
        )
    return float(value)
