"""Arms of a comparison: how each trains the student, the process that does it, its result on disk."""

from __future__ import annotations

import hashlib
import json
import math
import numbers
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import date, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..core.method import find_method
from ..errors import InputError
from ..files.writing import write_whole
from ..version import __version__
from .doctor import TESTED

ALONE = 'alone'
"""The arm that all others are compared to."""

LONGER = 'alone, same time'
"""The student alone for as many seconds as it takes to distil it."""

RESULT, OUTPUT = 'result.json', 'output.txt'
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
NO_METRIC = {'step', 'time', 'data_time'}
METRICS = ('coco/bbox_mAP', 'accuracy/top1', 'mIoU')
"""The score if neither the user nor the config names one: the first of these that is measured."""


@dataclass(frozen=True)
class Arm:
    """A way to train the student: methods, or none, and options as ``--distill-options`` has them.

    Attributes:
        config: another plain config in the place of the student's, on labels of a teacher for one.
    """

    method: str | None = None
    options: tuple[str, ...] = ()
    config: str | None = None

    @property
    def needs_teacher(self) -> bool:
        """Whether one of its methods does.

        >>> Arm('kd').needs_teacher, Arm('frskd').needs_teacher, Arm().needs_teacher
        (True, False, False)
        """
        parts = [] if self.method is None else self.method.split('+')
        kinds = [find_method(part.partition(':')[0].strip()) for part in parts]
        return any(kind.needs_teacher for kind in kinds)


def parse_arms(specs: Sequence[str]) -> dict[str, Arm]:
    """Arms by what they are called on the command line, the student alone first.

    >>> parse_arms(['kd', 'dpk:dpk.size=light,dpk.level_weights=[0.6,1.0]'])['kd']
    Arm(method='kd', options=(), config=None)
    >>> list(parse_arms(['kd']))
    ['alone', 'kd']
    """
    for name in specs:
        if specs.count(name) > 1:
            raise InputError(f'--arms {name}: given {specs.count(name)} times; give it once')
    return {ALONE: Arm(), **{name: parse_arm(name) for name in specs if name != ALONE}}


def parse_arm(text: str) -> Arm:
    """Methods as ``--distill`` has them, and behind a colon their options, separated by commas; or a config.

    >>> parse_arm('dpk:dpk.size=light,dpk.level_weights=[0.6,1.0]').options
    ('dpk.size=light', 'dpk.level_weights=[0.6,1.0]')
    >>> parse_arm('pkd:3+kd:auto:kd.temperature=2')
    Arm(method='pkd:3+kd:auto', options=('kd.temperature=2',), config=None)
    """
    if text.endswith('.py'):
        return Arm(config=text)
    before, equals, _ = text.partition('=')
    method, _, _ = before.rpartition(':') if equals else (text, '', '')
    rest = text[len(method) + 1 :]
    options = tuple(re.split(r',(?=[\w.-]+=)', rest)) if rest else ()
    if not method or method == ALONE or not all('=' in option for option in options):
        raise InputError(
            f"--arms {text!r}: needed: methods, then options: 'kd', 'pkd+kd', "
            "'dpk:dpk.weight=auto,dpk.size=light'; or a plain config: 'other.py'; the arm alone has none"
        )
    try:
        _ = Arm(method).needs_teacher
    except InputError as error:
        raise InputError(f'--arms {text}: {error}') from error
    return Arm(method, options)


@dataclass(frozen=True)
class Plan:
    """What all runs of a comparison share.

    Attributes:
        config: of the student.
        arms: by name.
        work_dir: each run has a folder there.
        teacher: its config.
        teacher_checkpoint: its weights.
        cfg_options: ``KEY=VALUE``, for every run.
        tool: the script that trains.
        trust_checkpoint: unpickle checkpoints without restriction.
        threads: of every run; by default all.
    """

    config: str
    arms: dict[str, Arm]
    work_dir: Path
    teacher: str | None = None
    teacher_checkpoint: str | None = None
    cfg_options: tuple[str, ...] = ()
    tool: str = 'tools/train.py'
    trust_checkpoint: bool = False
    threads: int | None = None

    def folder(self, arm: str, seed: int) -> Path:
        """Where a run's files go.

        >>> Plan('student.py', {}, Path('work')).folder('pkd+kd', 1)
        PosixPath('work/pkd+kd_1')
        """
        name = re.sub(r'[^\w+-]+', '_', arm)
        if name != arm:  # other arms may be called alike but for what was replaced
            name = f'{name[:60]}_{hashlib.sha256(arm.encode()).hexdigest()[:6]}'
        return self.work_dir / f'{name}_{seed}'

    def command(self, arm: str, seed: int, more: Sequence[str] = ()) -> list[str]:
        """The arguments of Python; the seed sets initialisation and data order, in every arm alike."""
        chosen = self.arms[arm]
        words = [self.tool, chosen.config or self.config, '--work-dir', str(self.folder(arm, seed))]
        words += ['--resume', 'auto', *(['--trust-checkpoint'] if self.trust_checkpoint else [])]
        if chosen.method is not None:
            words += ['--distill', chosen.method]
        if chosen.needs_teacher:
            words += ['--teacher', str(self.teacher)]
            if self.teacher_checkpoint is not None:
                words += ['--teacher-checkpoint', self.teacher_checkpoint]
        if chosen.options:
            words += ['--distill-options', *chosen.options]
        return [*words, '--cfg-options', *self.cfg_options, *more, f'randomness.seed={seed}']


@dataclass
class Run:
    """One training and what came out.

    Attributes:
        metrics: the last that were measured; empty if it failed, and then
        error: is what it said last.
    """

    arm: str
    seed: int
    metrics: dict[str, float]
    seconds: float
    date: str
    machine: str
    command: list[str]
    versions: dict[str, str] = field(default_factory=dict)
    error: str | None = None


def read_runs(work_dir: Path) -> list[Run]:
    """All runs that have ended, well or not: each has a file of its own, so that none is overwritten."""
    names = {f.name for f in fields(Run)}
    contents = [json.loads(path.read_text()) for path in sorted(work_dir.glob(f'*/{RESULT}'))]
    return [Run(**{k: v for k, v in content.items() if k in names}) for content in contents]


def run_arm(plan: Plan, arm: str, seed: int, more: Sequence[str] = ()) -> Run:
    """Train once to the end and write what came out; what was interrupted goes on, and has no result yet."""
    folder, command = plan.folder(arm, seed), plan.command(arm, seed, more)
    folder.mkdir(parents=True, exist_ok=True)
    before, start = _seconds_before(folder), time.monotonic()
    status = run_process([sys.executable, *command], folder / OUTPUT, plan.threads)
    number = status - 128 if status > 128 else -status
    if number in STOPS:
        raise SystemExit(128 + number)
    metrics = {} if status else metrics_of(folder)
    error = None if metrics else _failure(folder, status)
    seconds = round(before + time.monotonic() - start)
    today, versions = date.today().isoformat(), installed()
    where, shown = machine(plan.threads), ['python', *command]
    run = Run(arm, seed, metrics, seconds, today, where, shown, versions, error)
    write_whole(folder / RESULT, (json.dumps(asdict(run), indent=1) + '\n').encode())
    return run


def run_process(command: Sequence[str], output: Path, threads: int | None) -> int:
    """Run a command to its end, all it says in a file; signals that stop us stop it, and we wait for it."""
    environment = dict(os.environ)
    if threads is not None:
        environment['OMP_NUM_THREADS'] = str(threads)
    with output.open('a') as said:
        said.write(f'$ {shlex.join(command)}\n')
        said.flush()
        # a session of its own: Ctrl-C comes to it once, through us
        process = subprocess.Popen(
            command, stdout=said, stderr=said, env=environment, start_new_session=True
        )
        with _passed_on(process):
            return process.wait()


@contextmanager
def _passed_on(process: subprocess.Popen[Any]) -> Iterator[None]:
    """What stops us stops the process; a signal that we ignore (nohup) stays ignored."""
    heard = [s for s in STOPS if signal.getsignal(s) is not signal.SIG_IGN]
    before = {s: signal.signal(s, lambda n, _: process.send_signal(n)) for s in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def metrics_of(folder: Path) -> dict[str, float]:
    """The last value of everything that validation has logged in a run's folder."""
    found: dict[str, float] = {}
    for entry in log_of(folder):
        if 'lr' not in entry and 'loss' not in entry:
            found |= {k: v for k, v in entry.items() if k not in NO_METRIC}
    return found


def log_of(folder: Path) -> list[dict[str, Any]]:
    """What mmengine's LocalVisBackend has written, of all attempts at a run; not what it is just writing."""
    paths = sorted(folder.glob('*/vis_data/scalars.json'))
    return [
        json.loads(line)
        for path in paths
        for line in path.read_text().splitlines()
        if line[-1:] == '}'
    ]


def numbers_in(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """What can be compared of an evaluator's answer; some give NumPy's numbers.

    >>> import numpy as np
    >>> numbers_in({'mIoU': np.float32(0.5), 'classwise': [0.1], 'time': 0.2})
    {'mIoU': 0.5}
    """
    found = {k: float(v) for k, v in (metrics or {}).items() if isinstance(v, numbers.Real)}
    return {k: v for k, v in found.items() if k not in NO_METRIC and math.isfinite(v)}


def usual(hooks: Mapping[str, Any]) -> list[str]:
    """The names of scores, of which the first that is measured decides: ``save_best``, then the usual ones."""
    best = (hooks.get('checkpoint') or {}).get('save_best') or []
    return [*([best] if isinstance(best, str) else best), *METRICS]


def decisive(known: Sequence[str], hooks: Mapping[str, Any]) -> str | None:
    """The metric that decides among those that are measured; None if it is not among them.

    >>> decisive(['coco/bbox_mAP_50', 'coco/bbox_mAP'], {})
    'coco/bbox_mAP'
    """
    return next((name for name in usual(hooks) if name in known), None)


def _seconds_before(folder: Path) -> float:
    """How long earlier attempts took, from the names of their logs to their last entries."""
    total = 0.0
    for path in folder.glob('*/vis_data/scalars.json'):
        begin = datetime.strptime(path.parts[-3], '%Y%m%d_%H%M%S').timestamp()
        total += max(0.0, path.stat().st_mtime - begin)
    return total


def _failure(folder: Path, status: int) -> str:
    if status == 0:
        return 'it ended without a validation in its log'
    lines = (folder / OUTPUT).read_text(errors='replace').split('\n$ ')[-1].splitlines()[1:]
    last = next((line.strip() for line in reversed(lines) if line.strip()), 'it said nothing')
    return f'status {status}: {last[:500]}'


def machine(threads: int | None) -> str:
    """Where this runs, in words."""
    used = f'{threads} of ' if threads is not None else ''
    return f'{platform.processor() or platform.machine()}, {used}{os.cpu_count()} cores'


def installed() -> dict[str, str]:
    """The versions of Python, of this package and of the stack."""
    found = {'python': platform.python_version(), 'mmkd': __version__}
    for name in TESTED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = 'absent'
    return found
