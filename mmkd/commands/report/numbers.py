"""What the trainings tell: the verdict, and what became better or worse."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import InputError, nearest
from ..arms import ALONE, METRICS
from ..verdicts import Difference, Row, difference, rows_of
from .runs import Training


@dataclass(frozen=True)
class Change:
    """One metric of an arm against the student alone."""

    arm: str
    metric: str
    alone: float
    mean: float
    teacher: float | None
    difference: Difference | None

    @property
    def gain(self) -> float:
        """By how much it is more: of pairs if there are any, else of the means."""
        return self.mean - self.alone if self.difference is None else self.difference.mean


@dataclass(frozen=True)
class Numbers:
    """What is told of some trainings.

    Attributes:
        metric: the score; None if nothing was validated yet.
        step: the validation at which arms are compared: the last that all have.
        rows: one for each arm.
        changes: of all metrics, the worst first.
        teacher: its metrics.
    """

    metric: str | None = None
    step: int | None = None
    rows: list[Row] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    teacher: Mapping[str, float] = field(default_factory=dict)


def numbers_of(
    trainings: Sequence[Training], teacher: Mapping[str, float], asked: str | None = None
) -> Numbers:
    """The verdict over some trainings, at the last validation that all of them have."""
    _refuse_twins(trainings)
    tried = [training for training in trainings if training.val]
    metric = score_of(tried, asked)
    step = last_common_step(tried, metric) if metric else None
    if metric is None or step is None:
        return Numbers(metric, teacher=teacher)
    rows = rows_of(scores_of(tried, metric, step), _seconds(tried), ALONE, 0.0)
    return Numbers(metric, step, rows, changes_of(tried, teacher, step), teacher)


def _refuse_twins(trainings: Sequence[Training]) -> None:
    seen: dict[tuple[str, int], Training] = {}
    for training in trainings:
        if training.seed is None:
            continue
        other = seen.setdefault((training.arm, training.seed), training)
        if other is not training:
            raise InputError(
                f'{other.folder} and {training.folder}: both are {training.arm}, seed {training.seed}; '
                'give one of them'
            )


def score_of(trainings: Sequence[Training], asked: str | None) -> str | None:
    """The metric that decides: the one that is asked for, else ``save_best``, else the usual one."""
    known = (
        [m for m in trainings[0].metrics if all(m in t.metrics for t in trainings)]
        if trainings
        else []
    )
    if asked is not None:
        if asked not in known:
            raise InputError(
                f'--metric {asked}: not validated in every run; {nearest(asked, known)}'
            )
        return asked
    hooks: Any = trainings[0].config.get('default_hooks') or {} if trainings else {}
    best = (hooks.get('checkpoint') or {}).get('save_best') or []
    usual = [*([best] if isinstance(best, str) else best), *METRICS]
    return next((name for name in [*usual, *known] if name in known), None)


def last_common_step(trainings: Sequence[Training], metric: str) -> int | None:
    """The last validation that all of them have."""
    steps = [{int(e['step']) for e in t.val if metric in e} for t in trainings]
    return max(set.intersection(*steps), default=None) if steps else None


def scores_of(trainings: Sequence[Training], metric: str, step: int) -> dict[str, dict[int, float]]:
    """A metric by arm and seed, the student alone first; runs without a seed are no pairs."""
    found: dict[str, dict[int, float]] = {}
    for number, training in enumerate(sorted(trainings, key=lambda t: t.arm != ALONE)):
        value = training.metric(metric, step)
        if value is not None:
            found.setdefault(training.arm, {})[_key(training, number)] = value
    return found


def _key(training: Training, number: int) -> int:
    return -1 - number if training.seed is None else training.seed


def _seconds(trainings: Sequence[Training]) -> dict[str, dict[int, float]]:
    """Seconds per iteration, so that trainings of different length compare."""
    found: dict[str, dict[int, float]] = {}
    for number, training in enumerate(sorted(trainings, key=lambda t: t.arm != ALONE)):
        found.setdefault(training.arm, {})[_key(training, number)] = seconds_per_iteration(training)
    return found


def seconds_per_iteration(training: Training) -> float:
    """The median of what was logged; 0 where nothing was."""
    times = [float(entry['time']) for entry in training.train if 'time' in entry]
    return statistics.median(times) if times else 0.0


def changes_of(
    trainings: Sequence[Training], teacher: Mapping[str, float], step: int
) -> list[Change]:
    """Every metric of every arm against the student alone, the worst first."""
    changes = []
    for metric in dict.fromkeys(name for t in trainings for name in t.metrics):
        scores = scores_of(trainings, metric, step)
        alone = scores.pop(ALONE, {})
        if not alone or min(alone.values()) < 0:  # COCO's -1: there is nothing of that size
            continue
        base, theirs = statistics.fmean(alone.values()), teacher.get(metric)
        for arm, own in scores.items():
            mean = statistics.fmean(own.values())
            changes.append(Change(arm, metric, base, mean, theirs, difference(own, alone)))
    return sorted(changes, key=lambda change: change.gain)
