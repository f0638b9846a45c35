"""What a student's validation is compared with while it trains: its teacher, and the student alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..collectives import rank
from ..errors import InputError
from .arms import decisive, log_of, numbers_in
from .teacher_check import TeacherCheckHook


@dataclass
class Yardsticks:
    """The numbers beside the student's.

    Attributes:
        guide: has the teacher's, once they are known.
        baseline: the work dir of the student alone.
    """

    guide: TeacherCheckHook = field(default_factory=TeacherCheckHook)
    baseline: Path | None = None

    def rows(self, metrics: Mapping[str, float], step: int) -> list[list[str]]:
        """A heading, and each metric of the student with those of the others.

        >>> Yardsticks().rows({'coco/bbox_mAP': 0.25}, 3)
        [['', 'student'], ['coco/bbox_mAP', '0.25']]
        """
        others = {name: own for name, own in self.others(step).items() if own}
        rows = [['', 'student', *others]]
        for name, value in metrics.items():
            beside = (own.get(name) for own in others.values())
            rows.append([name, f'{value:.4g}', *('-' if o is None else f'{o:.4g}' for o in beside)])
        return rows

    def others(self, step: int) -> dict[str, Mapping[str, float]]:
        """What is known of student alone and teacher; of the former at the same epoch or iteration."""
        found: dict[str, Mapping[str, float]] = {}
        if self.baseline is not None:
            found['alone'] = alone_at(self.baseline, step)
        if (check := self.guide.found) is not None:
            found[f'teacher ({check.images} images)'] = check.metrics
        return found

    def refuse_no_baseline(self) -> None:
        """Stop if no training has logged where the baseline is to be."""
        if self.baseline is not None and not log_of(self.baseline):
            raise InputError(
                f'--baseline {self.baseline}: no training has logged there (no */vis_data/scalars.json); '
                'needed: the work dir of the student alone'
            )


def alone_at(work_dir: Path, step: int) -> dict[str, float]:
    """What a training has validated at an epoch or iteration; nothing if it was not there (yet)."""
    validated = [e for e in log_of(work_dir) if 'lr' not in e and 'loss' not in e]
    entries = [entry for entry in validated if entry.get('step') == step]
    return {k: v for entry in entries for k, v in numbers_in(entry).items()}


def step_of(runner: Runner) -> int:
    """The epoch or iteration by which this training's validations are logged."""
    loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
    return runner.epoch if any(hook.log_metric_by_epoch for hook in loggers) else runner.iter


class YardstickHook(Hook):
    """Says after each validation how far the student is, in one line of the log."""

    priority = 'VERY_LOW'

    def __init__(self, yardsticks: Yardsticks) -> None:
        self.yardsticks = yardsticks

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, Any] | None = None) -> None:
        """Nothing without a teacher that was checked and a baseline."""
        known = numbers_in(metrics)
        name = decisive([*known], runner.cfg.get('default_hooks') or {})
        if rank() or name is None:
            return
        heading, values = self.yardsticks.rows({name: known[name]}, step_of(runner))
        if len(heading) > 2:
            parts = (f'{who} {value}' for who, value in zip(heading[1:], values[1:]))
            print_log(f'{name}: {", ".join(parts)}', 'current')
