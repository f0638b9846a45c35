"""A student trained alone and in other ways on a user's own data: which way is better, and is it sure.

Runs of one seed have one initialisation and one order of the data, so differences are taken seed by seed.
Every run is one process, and its result is on disk when it ends: what is there is not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from rich.console import Console

from ..core.teacher import UNTRAINED
from ..errors import InputError, nearest
from ..family.building import is_distiller, load_config
from ..files.checkpoints import read_checkpoint
from ..files.locks import held
from ..files.writing import refuse_unwritable, write_whole
from ..training.manifest import flat
from .arms import ALONE, LONGER, Arm, Plan, Run, decisive, read_runs, run_arm, usual
from .overrides import override
from .train import training_config
from .verdicts import LEVEL, Row, markdown, notes_of, rows_of, table

STRETCHED = {
    'max_epochs', 'max_iters', 'begin', 'end', 'T_max', 'milestones', 'step_size', 'switch_epoch',
}  # fmt: skip
"""Lengths of training, learning rate schedules and hooks that grow with the number of epochs."""

LOCK = '.lock'
"""In a run's folder: held by the process that runs it."""
Key = tuple[str, int]
"""Arm and seed of a run."""


@dataclass(frozen=True)
class Comparison:
    """What is asked for.

    Attributes:
        plan: what all runs share.
        seeds: each arm is trained once with each.
        same_time: also train the student alone for as many seconds as it takes to distil it.
        metric: the score; by default the config's ``save_best``, or the usual one.
        smallest: the smallest difference that matters.
    """

    plan: Plan
    seeds: tuple[int, ...]
    same_time: bool = False
    metric: str | None = None
    smallest: float = 0.0

    def __post_init__(self) -> None:
        twice = [seed for seed in self.seeds if self.seeds.count(seed) > 1]
        if twice:
            raise InputError(f'--seeds: {twice[0]} is given more than once; give it once')
        if not self.smallest >= 0:
            raise InputError(f'--smallest {self.smallest}: must be 0 or more')
        if self.same_time and len(self.plan.arms) == 1:
            raise InputError('--same-time: as long as what? Name an arm that distils: --arms kd')

    @functools.cached_property
    def cfg(self) -> Config:
        """The student's config with its overrides."""
        cfg = load_config(self.plan.config)
        override(cfg, key_values('--cfg-options', self.plan.cfg_options))
        return cfg

    @property
    def keys(self) -> list[Key]:
        """All runs, seed by seed; their places are what ``--index`` counts."""
        keys = [(arm, seed) for seed in self.seeds for arm in self.plan.arms]
        return keys + ([(LONGER, seed) for seed in self.seeds] if self.same_time else [])


# -- before anything runs --------------------------------------------------------------------------


def check(asked: Comparison) -> None:
    """Answer wrong input of any arm."""
    plan, cfg = asked.plan, asked.cfg
    options = key_values('--cfg-options', plan.cfg_options)
    if is_distiller(cfg.model):
        raise InputError(f'{plan.config}: is a Distiller; give the plain config of its student')
    _check_teacher(plan)
    for name, arm in plan.arms.items():
        with _named(name):
            _check_arm(plan, name, arm, options)
    if cfg.get('val_dataloader') is None:
        raise InputError(f'val_dataloader: missing in {plan.config}; arms are compared on it')
    backends = (cfg.get('visualizer') or {}).get('vis_backends') or []
    if not any(backend.get('type') == 'LocalVisBackend' for backend in backends):
        raise InputError(
            'visualizer.vis_backends: has no LocalVisBackend, from whose log scores are read; add '
            "dict(type='LocalVisBackend')"
        )


def _check_teacher(plan: Plan) -> None:
    """Read what every distilled run would read."""
    if plan.teacher is not None:
        if not any(arm.needs_teacher for arm in plan.arms.values()):
            raise InputError(f'--teacher {plan.teacher}: no arm needs one; leave it out')
        load_config(plan.teacher)
    if plan.teacher_checkpoint not in (None, UNTRAINED):
        read_checkpoint(plan.teacher_checkpoint, trust=plan.trust_checkpoint)


def _check_arm(plan: Plan, name: str, arm: Arm, options: dict[str, Any]) -> None:
    """Answer what ``tools/train.py`` would answer of its options."""
    teaching = arm.needs_teacher
    training_config(
        arm.config or plan.config,
        work_dir=str(plan.folder(name, 0)),
        cfg_options=options,
        method=arm.method,
        teacher=plan.teacher if teaching else None,
        checkpoint=plan.teacher_checkpoint if teaching else None,
        distill_options=key_values(f'--arms {name}', arm.options),
        trust_checkpoint=plan.trust_checkpoint,
    )


@contextlib.contextmanager
def _named(arm: str) -> Iterator[None]:
    """Say which arm it is that is wrong; of the student alone it is the config."""
    try:
        yield
    except InputError as error:
        raise error if arm == ALONE else InputError(f'--arms {arm}: {error}') from error


def key_values(option: str, words: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` as the command line reads it.

    >>> key_values('--cfg-options', ['a.b=[1,2]', 'c=x'])
    {'a.b': [1, 2], 'c': 'x'}
    """
    for word in words:
        if '=' not in word:
            raise InputError(f'{option} {word!r}: needed: KEY=VALUE')
    parser = argparse.ArgumentParser()
    parser.add_argument('options', nargs='*', action=DictAction)
    return parser.parse_args(words).options or {}


def ended_runs(asked: Comparison) -> dict[Key, Run]:
    """What has ended of the runs that are asked for; a result of another command is refused."""
    found = {(run.arm, run.seed): run for run in read_runs(asked.plan.work_dir)}
    wanted = {key: found[key] for key in asked.keys if key in found}
    for (arm, seed), run in wanted.items():
        ours = None if arm == LONGER else asked.plan.command(arm, seed)
        if ours is not None and run.command[2:] != ours[1:]:
            raise InputError(
                f'--work-dir {asked.plan.work_dir}: has the result of {arm}, seed {seed}, from another '
                f'command: {shlex.join(run.command)}; take another --work-dir'
            )
    return wanted


# -- the student alone for as long -----------------------------------------------------------------


def time_factor(asked: Comparison, ended: dict[Key, Run]) -> float:
    """How many times longer than the student alone the distilled arms took, on average."""
    missing = [key for key in asked.keys if key[0] != LONGER and key not in ended]
    if missing:
        arm, seed = missing[0]
        raise InputError(
            f'--same-time: needs the seconds of all other runs; {len(missing)} have not ended, '
            f'the first: {arm}, seed {seed}'
        )
    good = [run for run in ended.values() if run.error is None and run.arm != LONGER]
    alone = [run.seconds for run in good if run.arm == ALONE]
    distilled = [run.seconds for run in good if run.arm != ALONE]
    if not alone or not distilled:
        raise InputError(
            '--same-time: needs a run alone and a distilled one that have ended well; see why they '
            'failed, then --retry'
        )
    return (sum(distilled) / len(distilled)) / (sum(alone) / len(alone))


def stretched(settings: Mapping[str, Any], factor: float) -> list[str]:
    """Options that make a training longer, its learning rate schedule in proportion.

    >>> stretched(dict(train_cfg=dict(max_epochs=10),
    ...                param_scheduler=[dict(milestones=[6, 8], gamma=0.1)]), 1.5)
    ['train_cfg.max_epochs=15', 'param_scheduler.0.milestones.0=9', 'param_scheduler.0.milestones.1=12']
    """
    parts = {
        name: settings.get(name) or {} for name in ('train_cfg', 'param_scheduler', 'custom_hooks')
    }
    options = []
    for key, value in flat(parts).items():
        names = key.split('.')
        name = names[-2] if names[-1].isdigit() else names[-1]
        if name in STRETCHED and isinstance(value, (int, float)) and math.isfinite(value):
            options.append(f'{key}={round(value * factor)}')
    if not options:
        raise InputError('--same-time: train_cfg has no max_epochs or max_iters to make longer')
    return options


# -- running ---------------------------------------------------------------------------------------


def pending(asked: Comparison, ended: dict[Key, Run], retry: bool) -> list[Key]:
    """What is still to run; what has failed only if it is to be tried again."""
    done = {key for key, run in ended.items() if run.error is None or not retry}
    return [key for key in asked.keys if key not in done]


def listing(asked: Comparison, retry: bool = False) -> list[str]:
    """A line for every run that is still to do: what ``--index`` calls it, and its command."""
    ended, lines = ended_runs(asked), []
    for arm, seed in pending(asked, ended, retry):
        command = 'once the others have ended: their seconds say for how many epochs'
        if arm != LONGER:
            command = shlex.join(['python', *asked.plan.command(arm, seed)])
        lines.append(f'{asked.keys.index((arm, seed))}  {arm}, seed {seed}: {command}')
    return lines


def run_all(
    asked: Comparison,
    console: Console,
    *,
    index: int | None = None,
    retry: bool = False,
) -> None:
    """Run what is still to run, or of that the one of an index alone; a run that fails stops no other.

    Several processes may do that in one folder: none takes a run that another has begun.
    """
    if index is not None and not 0 <= index < len(asked.keys):
        raise InputError(f'--index {index}: there are {len(asked.keys)} runs, from 0; see --list')
    todo = pending(asked, ended_runs(asked), retry)
    chosen = todo if index is None else [key for key in todo if key == asked.keys[index]]
    for number, (arm, seed) in enumerate(chosen, 1):
        console.print(f'{number}/{len(chosen)}  {arm}, seed {seed}', markup=False)
        with held(asked.plan.folder(arm, seed) / LOCK) as ours:
            if not ours:
                state = 'another process runs it'
            elif (arm, seed) not in pending(asked, ended_runs(asked), retry):
                state = 'another process has run it'
            else:
                run = run_one(asked, arm, seed)
                state = f'FAILED, {run.error}' if run.error else f'{run.seconds:.0f} s'
        console.print(f'     {state}', markup=False)


def run_one(asked: Comparison, arm: str, seed: int) -> Run:
    """One run of any arm."""
    if arm != LONGER:
        return run_arm(asked.plan, arm, seed)
    more = stretched(asked.cfg, time_factor(asked, ended_runs(asked)))
    return run_arm(replace(asked.plan, arms={LONGER: Arm()}), LONGER, seed, more)


# -- what came out ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """The table and what is behind it.

    Attributes:
        metric: the score.
        smallest: the smallest difference that matters.
        rows: one for each arm.
        runs: all that ended, those that failed included.
    """

    metric: str
    smallest: float
    rows: list[Row]
    runs: list[Run]

    @property
    def failed(self) -> list[str]:
        """A line for every run that failed."""
        return [f'{r.arm}, seed {r.seed}: failed, {r.error}' for r in self.runs if r.error]

    @property
    def title(self) -> str:
        """What is shown, in words."""
        matters = f'; differences from {self.smallest:g} on matter' if self.smallest else ''
        return f'{self.metric}, difference to {ALONE} by seed{matters}'

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the score of a run stands beside all its metrics."""
        content = asdict(self)
        for run in content['runs']:
            run['score'] = run['metrics'].get(self.metric)
        return dict(content, level=LEVEL)

    def write(self, path: Path) -> None:
        """Write it as Markdown (``.md``) or as JSON."""
        text = json.dumps(self.as_dict(), indent=1) + '\n'
        if path.suffix == '.md':
            text = markdown(self.rows, self.title, [*notes_of(self.rows), *self.failed])
        write_whole(path, text.encode())


def outcome(asked: Comparison) -> Outcome | None:
    """What the runs on disk say; None if none has ended. It is written to ``results.json`` there, too."""
    runs = list(ended_runs(asked).values())
    if not runs:
        return None
    good = [run for run in runs if run.error is None]
    if not good:
        raise InputError(
            f'no run ended well: {runs[0].arm}, seed {runs[0].seed}: {runs[0].error}; mend it, then --retry'
        )
    metric = metric_of(good, asked.metric, asked.cfg.get('default_hooks') or {})
    found = outcome_of(
        runs, list(dict.fromkeys(arm for arm, _ in asked.keys)), metric, asked.smallest
    )
    found.write(asked.plan.work_dir / 'results.json')
    return found


def outcome_of(runs: list[Run], arms: Sequence[str], metric: str, smallest: float) -> Outcome:
    """A row for each arm of which a run has ended well."""
    good = [run for run in runs if run.error is None]
    names = [arm for arm in arms if any(run.arm == arm for run in good)]
    scores = {a: {r.seed: r.metrics[metric] for r in good if r.arm == a} for a in names}
    seconds = {a: {r.seed: r.seconds for r in good if r.arm == a} for a in names}
    return Outcome(metric, smallest, rows_of(scores, seconds, ALONE, smallest), runs)


def metric_of(runs: Sequence[Run], asked: str | None, hooks: Mapping[str, Any]) -> str:
    """The score: the one that is asked for, else the config's ``save_best``, else the usual one."""
    known = [name for name in runs[0].metrics if all(name in run.metrics for run in runs)]
    found = decisive(known, hooks) if asked is None else asked
    if found in known:
        return found
    wanted = ' or '.join(usual(hooks)) if asked is None else asked
    raise InputError(f'--metric: {wanted} was not measured in every run; {nearest(wanted, known)}')


def compare(
    asked: Comparison,
    *,
    listed: bool = False,
    index: int | None = None,
    retry: bool = False,
    out: Path | None = None,
) -> bool:
    """What ``tools/compare.py`` does; whether no run has failed.

    Args:
        asked: what is compared.
        listed: print the commands of what is still to run, and run nothing.
        index: run this one alone, and show no table.
        retry: run again what has failed.
        out: where the table is written, too: ``.md``, or else JSON.
    """
    MMLogger.get_current_instance().setLevel('WARNING')
    console = Console(width=140, soft_wrap=True, highlight=False)
    refuse_unwritable(asked.plan.work_dir, '--work-dir')
    check(asked)
    if listed:
        console.print('\n'.join(listing(asked, retry)), markup=False)
        return True
    run_all(asked, console, index=index, retry=retry)
    if index is not None:
        run = ended_runs(asked).get(asked.keys[index])
        return run is None or run.error is None
    found = outcome(asked)
    assert found is not None  # alone has run at least
    console.print(table(found.rows, found.title))
    console.print('\n'.join([*notes_of(found.rows), *found.failed]), markup=False)
    if out is not None:
        found.write(out)
    return not found.failed
