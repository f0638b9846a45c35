"""What trainings have left on disk: their logs, their configs, how far they are."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ...core.method import method_names
from ...errors import InputError, reason_of
from ...training.manifest import flat
from ..arms import ALONE, NO_METRIC, RESULT
from ..summary import SUMMARY

LOGS = '*/vis_data/scalars.json'
QUIET = 900.0
"""Seconds; a training that is not at its end and has logged nothing for so long does not run any more."""

Entry = Mapping[str, Any]
"""One line of a log."""


@dataclass
class Training:
    """One training, finished or not.

    Attributes:
        folder: its work dir.
        arm: what it is called in tables: its methods, or the student alone.
        seed: of its config or its log; None where neither says.
        train: what was logged of iterations, in order, by the attempt that came last.
        val: what was validated, likewise.
        config: as it was dumped.
        summary: what the training itself has written of it; empty if it did not.
        state: ``finished``, ``running`` or ``stopped``.
        error: why it stopped, where that is known.
        seconds: it took, all attempts together.
    """

    folder: Path
    arm: str = ''
    seed: int | None = None
    train: list[Entry] = field(default_factory=list)
    val: list[Entry] = field(default_factory=list)
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    state: str = 'finished'
    error: str | None = None
    seconds: float = 0.0

    @property
    def by_epoch(self) -> bool:
        """Whether validations are counted in epochs, else in iterations."""
        return 'max_iters' not in (self.config.get('train_cfg') or {})

    @property
    def end(self) -> int | None:
        """The epoch or iteration at which training ends."""
        loop = self.config.get('train_cfg') or {}
        return loop.get('max_epochs' if self.by_epoch else 'max_iters')

    @property
    def at(self) -> int:
        """The epoch or iteration that was logged last."""
        last = [*self.train[-1:], *self.val[-1:]]
        key = 'epoch' if self.by_epoch else 'step'
        return max((int(entry.get(key, entry['step'])) for entry in last), default=0)

    @property
    def methods(self) -> Mapping[str, Any]:
        """The methods of its config; none for a plain student."""
        return (self.config.get('model') or {}).get('methods') or {}

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        unit = 'epoch' if self.by_epoch else 'iteration'
        return f'{unit} {self.at} of {self.end}' if self.end else f'{unit} {self.at}'

    def metric(self, name: str, step: int | None = None) -> float | None:
        """A validated number, the last or the one of a step."""
        found = [e[name] for e in self.val if name in e and step in (None, e['step'])]
        return float(found[-1]) if found else None

    @property
    def metrics(self) -> list[str]:
        """The names of all that was validated."""
        return list(dict.fromkeys(k for e in self.val for k in e if k not in NO_METRIC))


def read_trainings(folders: Iterable[Path], option: str) -> list[Training]:
    """The trainings of some work dirs; of a comparison's folder all its runs."""
    found = []
    for folder in folders:
        inside = sorted({path.parents[2] for path in folder.glob(f'*/{LOGS}')})
        own = [folder] if any(folder.glob(LOGS)) else inside
        if not own:
            raise InputError(
                f'{option} {folder}: no training has logged there (no {LOGS}); needed: a work dir, '
                'and a config whose visualizer.vis_backends has LocalVisBackend'
            )
        found += [read_training(path) for path in own]
    return found


def read_training(folder: Path) -> Training:
    """One training of a work dir."""
    paths = sorted(folder.glob(LOGS))
    train, val = merged([lines_of(path) for path in paths])
    result, summary = (json_of(folder / name) for name in (RESULT, SUMMARY))
    config = config_of(folder, paths)
    training = Training(folder, result.get('arm', ''), None, train, val, config, summary)
    training.seed = result.get('seed', seed_of(config, paths))
    training.seconds = sum(seconds_of(path) for path in paths)
    training.error = result.get('error') or summary.get('error')
    training.state = state_of(training, max((p.stat().st_mtime for p in paths), default=0.0))
    return training


def lines_of(path: Path) -> list[Entry]:
    """The entries of a log; a last line that is still being written is left out."""
    entries: list[Entry] = []
    for line in path.read_text(errors='replace').splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and 'step' in entry:
            entries.append(entry)
    return entries


def merged(attempts: Sequence[Sequence[Entry]]) -> tuple[list[Entry], list[Entry]]:
    """The entries of training and of validation; a later attempt replaces what it has done again.

    >>> train, _ = merged([[dict(step=1, loss=3.0), dict(step=2, loss=2.0)], [dict(step=2, loss=1.0)]])
    >>> [entry['loss'] for entry in train]
    [3.0, 1.0]
    """
    both: tuple[list[Entry], list[Entry]] = ([], [])
    for attempt in attempts:
        parts: tuple[list[Entry], list[Entry]] = ([], [])
        for entry in attempt:
            parts['lr' not in entry and 'loss' not in entry].append(entry)
        for kept, new in zip(both, parts):
            if new:
                kept[:] = [e for e in kept if e['step'] < new[0]['step']]
                kept += new
    return both


def config_of(folder: Path, logs: Sequence[Path]) -> Mapping[str, Any]:
    """The config of the last attempt; nothing where none was dumped or it cannot be read."""
    places = [*(log.with_name('config.py') for log in reversed(logs)), *sorted(folder.glob('*.py'))]
    for path in places:
        if path.exists():
            try:
                return Config.fromfile(str(path), import_custom_modules=False)
            except Exception as error:  # a config is code
                raise InputError(f'{path}: cannot be read ({reason_of(error)})') from error
    return {}


def seed_of(config: Mapping[str, Any], logs: Sequence[Path]) -> int | None:
    """The seed of a config, else the one that mmengine's log names."""
    seed = (config.get('randomness') or {}).get('seed')
    for path in logs if seed is None else ():
        for log in path.parents[1].glob('*.log'):
            said = re.search(r'^ {4}seed: (\d+)$', log.read_text(errors='replace'), re.M)
            seed = int(said[1]) if said else seed
    return seed


def seconds_of(log: Path) -> float:
    """How long an attempt took, from the name of its folder to its last entry."""
    try:
        begin = datetime.strptime(log.parts[-3], '%Y%m%d_%H%M%S').timestamp()
    except ValueError:
        return 0.0
    return max(0.0, log.stat().st_mtime - begin)


def state_of(training: Training, logged: float) -> str:
    """Whether a training is at its end, goes on, or was stopped."""
    said = training.summary.get('state')
    if said == 'finished' or (training.end and ended_at(training) >= training.end):
        return 'finished'
    if training.error or said == 'stopped' or time.time() - logged > QUIET:
        return 'stopped'
    return 'running'


def ended_at(training: Training) -> int:
    """The epoch or iteration of the last checkpoint or validation."""
    name = training.folder / 'last_checkpoint'
    number = re.search(r'_(\d+)\.pth$', name.read_text().strip()) if name.exists() else None
    steps = [int(entry['step']) for entry in training.val[-1:]]
    return max([int(number[1]) if number else 0, *steps])


def json_of(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def evaluated(folder: Path) -> dict[str, float]:
    """The metrics that ``mmkd test`` or a training has left in a folder."""
    files = [path for path in sorted(folder.glob('*/*.json')) if path.stem == path.parent.name]
    for path in reversed(files):
        found = json_of(path)
        return {k: v for k, v in found.items() if k not in NO_METRIC}
    training = read_trainings([folder], '--teacher')[0]
    return {name: training.metric(name) or 0.0 for name in training.metrics}


# -- what they are called --------------------------------------------------------------------------


def name_arms(trainings: Sequence[Training], baseline: Sequence[Training]) -> None:
    """Call each training by its methods, or by its folder where methods do not tell it from another."""
    for training in baseline:
        training.arm = ALONE
    free = [training for training in trainings if not training.arm]
    for training in free:
        training.arm = '+'.join(kinds(training)) or ALONE
    for arm in {training.arm for training in free} - {ALONE}:
        alike = [training for training in free if training.arm == arm]
        options = {repr(flat(training.methods)) for training in alike}
        seeds = [training.seed for training in alike if training.seed is not None]
        if len(options) > 1 or len(set(seeds)) < len(seeds):
            for training in alike:
                training.arm = training.folder.name


def kinds(training: Training) -> list[str]:
    """The methods of a training, as the command line calls them."""
    known = {kind.__name__: name for name, kind in method_names().items()}
    types = [str(options.get('type', name)) for name, options in training.methods.items()]
    return [known.get(kind.rpartition('.')[2], kind) for kind in types]
