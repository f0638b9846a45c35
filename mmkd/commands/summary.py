"""What a training is of, said once at its start, and kept with what came out in ``summary.json``."""

from __future__ import annotations

import io
import json
import logging
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from rich.box import ROUNDED
from rich.console import Console
from rich.table import Table
from torch import Size, nn
from torch.utils.flop_counter import FlopCounterMode

from ..collectives import rank
from ..core.distiller import Distiller, student_class, untouched_randomness
from ..core.method import Method
from ..core.schedules import build_schedule
from ..core.teacher import Teacher
from ..errors import InputError
from ..family.running import Probe, probe
from ..family.taps import Tap
from ..files.writing import write_whole
from ..registry import SCHEDULES
from ..training.method_optimizers import bare, teachers_of
from .alarms import AlarmHook, batch_size
from .arms import installed, machine, numbers_in
from .first_iterations import ENOUGH, Clock, measured
from .first_iterations import rows_of as measured_rows
from .teacher_check import TeacherCheckHook

SUMMARY = 'summary.json'
Content = dict[str, Any]


class SummaryHook(Hook):
    """Says what is trained with what, and writes it, how far it is and what came out beside the checkpoints."""

    def __init__(
        self, alarms: AlarmHook | None = None, guide: TeacherCheckHook | None = None
    ) -> None:
        self.content: Content = {}
        self._path = Path()
        self._begin, self._start = 0.0, 0
        self._alarms, self._guide = alarms or AlarmHook(), guide or TeacherCheckHook()
        self._clocks: dict[str, Clock] = {}
        self._own: dict[str, Any] = {}

    def before_run(self, runner: Runner) -> None:
        """Look at what has been built, and say it."""
        if rank() or runner._train_loop is None or isinstance(runner._train_loop, dict):
            return
        self._path, self._begin = Path(runner.work_dir) / SUMMARY, time.time()
        self.content = overview(runner)
        print_log('\n' + shown(self.content), 'current')
        self._write(state='running')

    def before_train(self, runner: Runner) -> None:
        """Begin to time the teachers."""
        self._start = runner.iter
        for name, guide in teachers_of(runner).items() if self.content else ():
            self._own[name] = vars(guide).get('observe')  # a sharded teacher has one of its own
            self._clocks[name] = Clock(guide.observe)
            guide.observe = self._clocks[name]  # type: ignore[method-assign, assignment]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Say what only a running training tells, once."""
        done = runner.iter + 1
        if not self.content or done != min(self._start + ENOUGH, runner.max_iters):
            return
        for name, guide in teachers_of(runner).items():
            if self._own[name] is None:
                del guide.observe
            else:
                guide.observe = self._own[name]  # type: ignore[method-assign]
        found = measured(runner, self._clocks)
        print_log('\n' + table_of(measured_rows(found)), 'current')
        self._write(measured=found)

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, Any] | None = None) -> None:
        """Keep the numbers of the last validation."""
        self._write(iteration=runner.iter, metrics=numbers_in(metrics))

    def after_train(self, runner: Runner) -> None:
        """It is done."""
        last = Path(runner.work_dir) / 'last_checkpoint'
        checkpoint = last.read_text().strip() if last.exists() else None
        self._write(state='finished', iteration=runner.iter, checkpoint=checkpoint)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Keep why a training ended before its time."""
        try:
            yield
        except BaseException as error:
            self._write(state='stopped', error=reason(error))
            raise

    def _write(self, **news: Any) -> None:
        if not self.content:
            return
        self.content |= news | dict(seconds=round(time.time() - self._begin))
        self.content['warnings'] = [*self._guide.said, *self._alarms.said]
        if self._guide.found is not None:
            self.content['teacher_check'] = asdict(self._guide.found)
        try:
            write_whole(self._path, (json.dumps(self.content, indent=1) + '\n').encode())
        except (OSError, InputError) as error:  # training itself goes on
            print_log(f'{self._path}: not written ({error})', 'current', logging.WARNING)


def reason(error: BaseException) -> str:
    """Why a training ended, in a line.

    >>> reason(SystemExit(143)), reason(ValueError('no'))
    ('stopped by a signal (exit status 143); mmkd train --resume goes on', 'ValueError: no')
    """
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
        return f'stopped by a signal (exit status {error.code}); mmkd train --resume goes on'
    text = (str(error).splitlines() or [''])[0][:500]
    return text if isinstance(error, InputError) else f'{type(error).__name__}: {text}'


# -- what is known at the start --------------------------------------------------------------------


def overview(runner: Runner) -> Content:
    """All that is known of a training before its first iteration."""
    model, loader = bare(runner), runner.train_dataloader
    found: Content = dict(
        config=runner.cfg.filename,
        command=shlex.join(sys.argv),
        date=date.today().isoformat(),
        machine=machine(None),
        versions=installed(),
        seed=runner.seed,
        student=network(model),
        data=dict(train=len(loader.dataset), batch=batch_size(loader)),
        max_iters=runner.max_iters,
    )
    if runner.val_loop is not None:
        found['data']['val'] = len(runner.val_dataloader.dataset)
    if isinstance(model, Distiller):
        distillation = model.distillation
        found['student']['macs'] = macs(model, distillation._probed)
        found['teachers'] = {n: guide_of(t) for n, t in distillation.teachers.items()}
        options = (runner.cfg.model.get('methods') or {}) if runner.cfg.get('model') else {}
        found['methods'] = {
            name: method_of(
                method, distillation._probed, options.get(name) or {}, distillation.teacher_of(name)
            )
            for name, method in distillation.methods.items()
        }
    return found


def network(model: nn.Module) -> Content:
    """A network's class and size; of a Distiller the student's, without what is added for training."""
    kind = student_class(model) if isinstance(model, Distiller) else type(model)
    own = [p for n, p in model.named_parameters() if not n.startswith('distillation.')]
    trained = sum(p.numel() for p in own if p.requires_grad)
    return dict(type=kind.__name__, parameters=sum(p.numel() for p in own), trained=trained)


def guide_of(guide: Teacher) -> Content:
    """What is known of a teacher; before it is brought into a fast form."""
    return network(guide.model) | dict(
        summary=guide.summary(), macs=macs(guide.model, guide.probed)
    )


def macs(model: Any, seen: Probe) -> Content | None:
    """How many multiplications a network takes to its taps on one image, and of which size; None if unknown."""
    if not seen.image:
        return None
    with suppress(Exception), untouched_randomness(), FlopCounterMode(display=False) as counter:
        probe(model, seen.shapes, sizes=[seen.image])
        return dict(number=counter.get_total_flops() // 2, image=seen.image)
    return None


def method_of(
    method: Method, seen: Probe, options: Mapping[str, Any], guide: Teacher | None = None
) -> Content:
    """What a method reads and weighs."""
    theirs = {} if guide is None else guide.probed.shapes
    given = {k: v for k, v in options.items() if k not in ('type', 'weight')}
    return dict(
        type=type(method).__name__,
        weight=weight_words(method, options.get('weight')),
        options={name: option_words(value) for name, value in given.items()},
        parameters=sum(p.numel() for p in method.parameters()),
        student_taps=[tap_words(tap, seen.shapes.get(tap, [])) for tap in method.student_taps],
        teacher_taps=[tap_words(tap, theirs.get(tap, [])) for tap in method.teacher_taps],
    )


def weight_words(method: Method, given: Any) -> str:
    """A method's weight: a number, its schedule, or what it follows."""
    if method.share is not None:
        return f"auto: {method.weight(0.0):g} of the task's gradient at its taps"
    return str(method.weight(0.0)) if given is None else option_words(given)


def option_words(value: Any) -> str:
    """An option; of a schedule what it gives.

    >>> option_words(dict(type='Ramp', value=2.0, until=0.5))
    'Ramp: 0 at the start, 2 half way, 2 at the end'
    """
    kind = value.get('type') if isinstance(value, Mapping) else None
    if str(kind).removeprefix('mmkd.') not in SCHEDULES.module_dict or 'Share' in str(kind):
        return str(value)
    schedule = build_schedule(value)
    start, middle, end = (f'{schedule(at):g}' for at in (0.0, 0.5, 1.0))
    return f'{kind}: {start} at the start, {middle} half way, {end} at the end'


def tap_words(tap: Tap, shapes: Iterable[Size]) -> str:
    """A tap and what passes there for one image of the dry run.

    >>> tap_words(Tap('neck'), [Size((1, 64, 16, 16)), Size((1, 64, 8, 8))])
    'neck (64x16x16, 64x8x8)'
    """
    return f'{tap.at} ({", ".join("x".join(map(str, shape[1:])) for shape in shapes)})'


# -- shown -----------------------------------------------------------------------------------------


def shown(content: Content, terminal: bool | None = None) -> str:
    """The overview."""
    return table_of(rows_of(content), terminal)


def table_of(rows: Iterable[tuple[str, str]], terminal: bool | None = None) -> str:
    """A table on a terminal, plain lines elsewhere."""
    terminal = sys.stdout.isatty() if terminal is None else terminal
    table = Table(box=ROUNDED if terminal else None, show_header=False)
    for row in rows:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(table)
    return '\n'.join(line.rstrip() for line in console.export_text().splitlines())


def rows_of(content: Content) -> list[tuple[str, str]]:
    """What is shown, in words."""
    student, data = content['student'], content['data']
    size = f'{student["parameters"] / 1e6:.2f} M parameters'
    if student['trained'] < student['parameters']:
        size += f', {student["trained"] / 1e6:.2f} M trained'
    rows = [('student', f'{student["type"]}, {size}{_cost(student.get("macs"))}')]
    for teacher in content.get('teachers', {}).values():
        name, _, words = teacher['summary'].partition(': ')
        rows.append((name.removeprefix('the '), words + _cost(teacher['macs'])))
    for name, method in content.get('methods', {}).items():
        options = ''.join(f', {key}={value}' for key, value in method['options'].items())
        added = (
            f', {method["parameters"] / 1e6:.2f} M parameters in training'
            if method['parameters']
            else ''
        )
        rows.append((name, f'{method["type"]}, weight {method["weight"]}{options}{added}'))
        rows.append(('  reads', ', '.join(method['student_taps'])))
        if method['teacher_taps']:
            rows.append(('  against', ', '.join(method['teacher_taps'])))
    batch = f' in batches of {data["batch"]}' if data.get('batch') else ''
    tested = f', {data["val"]} to validate' if 'val' in data else ''
    rows.append(('data', f'{data["train"]} images to train{batch}{tested}'))
    rows.append(('length', f'{content["max_iters"]} iterations, seed {content["seed"]}'))
    return rows


def _cost(found: Content | None) -> str:
    return (
        f', {found["number"] / 1e6:.0f} MMACs to its taps at {found["image"]} px' if found else ''
    )
