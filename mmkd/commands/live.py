"""A table that is redrawn while a training runs on a terminal; elsewhere there are mmengine's lines."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..collectives import rank
from .arms import numbers_in
from .sections import section_of
from .yardsticks import Yardsticks, step_of

Rows = list[list[str]]
PLAIN = 'MMKD_PLAIN'
"""Set in the environment, lines are printed on a terminal, too."""
EVERY = 0.5
"""Seconds between two drawings."""
WINDOW = 20
"""Numbers are means over so many iterations, as those of the log are."""
SHOWN = 10
"""So many metrics are shown at most."""
BLOCKS = {'task': 'task', 'terms': 'methods', 'weights': 'methods', 'shares': 'methods',
          'ratio': 'levels', 'cka': 'levels'}  # fmt: skip
"""In which block a number is shown, by the section of the report that it is in."""


class LiveHook(Hook):
    """Redraws progress, losses, levels and metrics on a terminal; the log file has all its lines as ever."""

    priority = 'VERY_LOW'

    def __init__(
        self, console: Console | None = None, yardsticks: Yardsticks | None = None
    ) -> None:
        self._console, self._yardsticks = console or Console(), yardsticks or Yardsticks()
        self._live: Live | None = None
        self._drawn = 0.0
        self._muted: list[tuple[logging.StreamHandler[Any], int, Any]] = []
        self._metrics: Rows = []

    def before_train(self, runner: Runner) -> None:
        """Take the terminal over: lines of the log go to their file alone, warnings above the table."""
        if rank() or not self._console.is_terminal or os.environ.get(PLAIN):
            return
        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()
        for handler in runner.logger.handlers:
            if type(handler) is logging.StreamHandler:
                self._muted.append((handler, handler.level, handler.stream))
                handler.setLevel(max(handler.level, logging.WARNING))
                handler.setStream(sys.stdout)  # which now prints above the table

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw it again, not too often."""
        self._draw(runner)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Say how far a validation is."""
        self._draw(runner, f'validating {batch_idx + 1} of {len(runner.val_dataloader)}')

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, Any] | None = None) -> None:
        """Keep the numbers of the last validation, and those that they are compared with."""
        if self._live is None:
            return
        self._metrics = self._yardsticks.rows(numbers_in(metrics), step_of(runner))

    def after_train(self, runner: Runner) -> None:
        """Draw the end."""
        self._drawn = 0.0
        self._draw(runner)

    @contextmanager
    def ended(self) -> Iterator[None]:
        """Give the terminal back, whatever ends the training."""
        try:
            yield
        finally:
            if self._live is not None:
                self._live.stop()
            for handler, level, stream in self._muted:
                handler.setLevel(level)
                handler.setStream(stream)
            self._live, self._muted = None, []

    def _draw(self, runner: Runner, doing: str = '') -> None:
        if self._live is None or time.monotonic() - self._drawn < EVERY:
            return
        self._drawn = time.monotonic()
        done = min(runner.iter + (not doing), runner.max_iters)
        self._live.update(
            view(scalars(runner), done, runner.max_iters, self._metrics, doing), refresh=True
        )


def scalars(runner: Runner) -> dict[str, float]:
    """What has been logged of training, as means over the last iterations."""
    found = runner.message_hub.log_scalars.items()
    return {
        name.removeprefix('train/'): float(values.mean(WINDOW))
        for name, values in found
        if name.startswith('train/')
    }


def view(
    numbers: Mapping[str, float], done: int, of: int, metrics: Rows, doing: str = ''
) -> RenderableType:
    """Progress, and a block each for the task, the methods, their levels and the last validation.

    Args:
        numbers: of training, by key of the log.
        done: iterations.
        of: how many there will be.
        metrics: of the last validation, with a heading; see :class:`Yardsticks`.
        doing: what else is going on.
    """
    left = timedelta(seconds=round(numbers.get('time', 0.0) * (of - done)))
    line = f'iteration {done} of {of}  {left} left  {numbers.get("time", 0.0):.3f} s / iteration  {doing}'
    blocks = blocks_of(numbers)
    panels = [Panel(_grid(rows), title=name) for name, rows in blocks.items() if name != 'levels']
    if levels := levels_of(blocks.get('levels', [])):
        panels.append(Panel(_level_grid(levels), title='levels'))
    if len(metrics) > 1:
        panels.append(Panel(_table(metrics[: SHOWN + 1]), title='validation'))
    head = Table.grid()
    head.add_row(Text(line))
    head.add_row(ProgressBar(total=max(of, 1), completed=done, width=60))
    return Group(head, Columns(panels))


def blocks_of(numbers: Mapping[str, float]) -> dict[str, list[tuple[str, float]]]:
    """Numbers by the block that they are shown in; what is in none is in the log and the report.

    >>> blocks_of({'loss_cls': 1.0, 'pkd/loss': 2.0, 'lr': 0.1})
    {'task': [('loss_cls', 1.0)], 'methods': [('pkd/loss', 2.0)]}
    """
    found: dict[str, list[tuple[str, float]]] = {}
    for name, value in numbers.items():
        block = BLOCKS.get(section_of(name))
        if block is not None:
            found.setdefault(block, []).append((name, value))
    return found


def levels_of(rows: list[tuple[str, float]]) -> dict[str, dict[str, float]]:
    """Ratio and alignment by level.

    >>> levels_of([('dpk/ratio.P3', 0.5), ('dpk/cka.P3', 0.6)])
    {'P3': {'ratio': 0.5, 'cka': 0.6}}
    """
    found: dict[str, dict[str, float]] = {}
    for name, value in rows:
        what, _, level = name.rpartition('/')[2].partition('.')
        found.setdefault(level, {})[what] = value
    return found


def _grid(rows: list[tuple[str, float]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        shown = f'{100 * value:.1f} %' if section_of(name) == 'shares' else f'{value:.4g}'
        grid.add_row(name, Text(shown, justify='right'))
    return grid


def _table(rows: Rows) -> Table:
    grid = Table.grid(padding=(0, 2))
    for number, row in enumerate(rows):
        style = '' if number else 'dim'
        grid.add_row(*(Text(t, style, justify='right' if i else 'left') for i, t in enumerate(row)))
    return grid


def _level_grid(levels: Mapping[str, Mapping[str, float]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    kinds = list(dict.fromkeys(kind for own in levels.values() for kind in own))
    names = dict(ratio='teacher', cka='alignment')
    grid.add_row('', *(Text(names.get(kind, kind), style='dim') for kind in kinds))
    for level, own in levels.items():
        shown = (f'{own[kind]:.2f}' if kind in own else '-' for kind in kinds)
        grid.add_row(level, *(Text(text, justify='right') for text in shown))
    return grid
