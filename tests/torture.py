"""Attacks on what mmkd promises, drawn at random until the time is over: ``make torture SEED=1 MINUTES=10``.

Each attack is drawn from the code: methods from their registry, families from ``helpers``, wrong values from
the options' annotations, entry points from the package. What was tried is printed, and what failed again at
the end; the exit status is 1 if anything did. An attack's own seed repeats it: ``--kinds kills --seed 17``.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import helpers as h
import numpy as np
import pytest
import torch
from core.test_options import OPTIONS, POOL, TAKERS, built
from hostile import PAYLOADS
from killable import Process, differing, final, stop_at_random, written
from mmengine.logging import MMLogger
from resumable import INFINITE, INSIDE, config
from test_entry_points import CALLS, PLACES, SLOW, test_no_call_runs_the_code_of_a_checkpoint

from mmkd.core.method import method_names
from mmkd.datasets import ShapesSpec, make_shapes
from mmkd.errors import InputError
from mmkd.files.checkpoints import read_checkpoint

Draw = np.random.Generator
FAMILIES = ('classifier', 'retinanet', 'gfl', 'fcos', 'faster_rcnn')
"""Those that are trained and killed; the others take longer and tell no more of resuming."""
KILLS = 3


class Failure(Exception):
    """A promise that was not kept."""


def main() -> None:
    """Attack until the time is over."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--seed', type=int, default=0, help='of the first attack; each has its own')
    parser.add_argument('--minutes', type=float, default=10.0, help='no attack begins after that')
    parser.add_argument('--kinds', nargs='+', default=[*ATTACKS], choices=ATTACKS)
    args = parser.parse_args()
    MMLogger.get_current_instance().setLevel('ERROR')
    failures = torture(args.seed, args.minutes, args.kinds)
    sys.exit(1 if failures else 0)


def torture(seed: int, minutes: float, kinds: Sequence[str]) -> list[str]:
    """Attack in turns; the failures, each with the command that repeats it."""
    end, failures, tried = time.monotonic() + 60 * minutes, [], 0
    with tempfile.TemporaryDirectory() as folder:
        shapes = make_shapes(
            Path(folder, 'shapes'),
            ShapesSpec(train=24, val=4, smallest=64, largest=80, objects=4, crop=32),
            quiet=True,
        )
        while time.monotonic() < end:
            kind, own = kinds[tried % len(kinds)], seed + tried // len(kinds)
            work = Path(folder, f'{kind}_{own}')
            work.mkdir()
            outcome = attempt(ATTACKS[kind], np.random.default_rng(own), shapes, work)
            print(f'{kind}, seed {own}: {outcome}', flush=True)
            if outcome.startswith('FAILED'):
                failures.append(f'--kinds {kind} --seed {own}: {outcome}')
            tried += 1
    print(f'{tried} attacks, {len(failures)} failed', *failures, sep='\n', flush=True)
    return failures


def attempt(attack: Callable[..., str], draw: Draw, shapes: Path, work: Path) -> str:
    """What an attack tried; or how it succeeded."""
    try:
        return attack(draw, shapes, work)
    except Failure as failure:
        return f'FAILED: {failure}'
    except Exception:  # whatever is no answer is a failure
        return 'FAILED: ' + traceback.format_exc(limit=-4)


# -- kills ----------------------------------------------------------------------------------------


def kills(draw: Draw, shapes: Path, work: Path) -> str:
    """A random training, killed at random moments and resumed, ends bit for bit like one that was not."""
    what, cfg, ranks = random_training(draw, shapes)
    file = written(cfg, work)
    straight = Process(file, work / 'straight', ranks)
    if not straight.wait_for(straight.iterations):
        return refused(what, straight)
    began = time.monotonic()
    if straight.process.wait() != 0:
        raise Failure(f'{what} does not train: {said(straight)}')
    total = len(straight.iterations())
    pace, killed = (time.monotonic() - began) / total, work / 'killed'
    for number in range(KILLS):
        rank = int(draw.integers(ranks)) if ranks > 1 and draw.random() < 0.5 else None
        process, least = Process(file, killed, ranks), 1 if number else 4
        if not stop_at_random(process, killed, draw, least, max(least, total // 5), pace, rank):
            break  # it was faster
    last = Process(file, killed, ranks)
    if last.process.wait() != 0:
        raise Failure(f'{what} does not resume: {said(last)}')
    (name, ours), (other, theirs) = final(work / 'straight'), final(killed)
    if name != other or (names := differing(ours, theirs)):
        raise Failure(f'{what} ends otherwise: {name}, {other}: {names[:5]}')
    return f'{what}: alike after {number + 1} kills'


def said(process: Process) -> str:
    """What a process that failed said of it; its log is kept."""
    text = process.log.read_text(errors='replace')
    kept = Path(tempfile.mkdtemp(prefix='mmkd_torture_'), 'log.txt')
    kept.write_text(text)
    lines = [
        line
        for line in text.splitlines()
        if re.search(r'(^|\b)(error|\w*Error|\w*Exception): ', line)
    ]
    return f'{lines[:3] or text[-500:]} (all of it: {kept})'


def refused(what: str, process: Process) -> str:
    """A combination that cannot be has to be answered in one message."""
    text = process.log.read_text()
    if process.process.wait() == 2 and 'Traceback' not in text:
        return f'{what}: refused: {text.strip().splitlines()[-1][:200]}'
    raise Failure(f'{what} does not start: {said(process)}')


def random_training(draw: Draw, shapes: Path) -> tuple[str, Any, int]:
    """In words, as a config, and on how many ranks."""
    family = str(draw.choice(FAMILIES))
    methods, ranks = random_methods(draw, family), int(draw.integers(1, 3))
    changes: dict[str, Any] = dict(INFINITE if draw.random() < 0.3 else INSIDE)
    changes['default_hooks.checkpoint.interval'] = int(draw.integers(1, 4))
    workers = int(draw.integers(0, 3))
    changes['train_dataloader.num_workers'] = workers
    changes['train_dataloader.persistent_workers'] = workers > 0 and bool(draw.random() < 0.5)
    if 'train_cfg' not in changes:
        changes['train_cfg.max_epochs'] = int(draw.integers(2, 5))
    changes['optim_wrapper.accumulative_counts'] = int(draw.integers(1, 4))
    changes['optim_wrapper.clip_grad'] = dict(max_norm=1.0)  # some would diverge
    if family == 'classifier':
        changes['train_dataloader.dataset.indices'] = 24
    if draw.random() < 0.3:
        changes['optim_wrapper.type'] = 'mmkd.CpuAmpOptimWrapper'
    cfg = config(shapes, family, methods, **changes)
    cfg.custom_hooks[0] = random_average(draw)
    shown = {k.split('.')[-1]: v for k, v in changes.items() if not isinstance(v, (dict, list))}
    return (
        f'{family}, {"+".join(methods)}, {ranks} ranks, {shown}, {cfg.custom_hooks[0]}',
        cfg,
        ranks,
    )


def random_methods(draw: Draw, family: str) -> dict[str, dict[str, Any]]:
    """One or two methods that can be built for a family, of all that are registered."""
    names = [str(name) for name in draw.permutation(sorted(method_names()))]
    chosen: dict[str, dict[str, Any]] = {}
    for name in names:
        method = dict(type=f'mmkd.{method_names()[name].__name__}')
        student = h.FAMILIES[family]()
        try:
            h.distiller(
                student,
                h.FAMILIES[family]() if method_names()[name].needs_teacher else None,
                m=method,
            )
        except InputError:
            continue
        chosen[name] = method
        if len(chosen) == 2 or draw.random() < 0.5:
            break
    return chosen


def random_average(draw: Draw) -> dict[str, Any]:
    """An averaging hook with or without buffers."""
    kind = str(
        draw.choice(['ExponentialMovingAverage', 'StochasticWeightAverage', 'mmdet.ExpMomentumEMA'])
    )
    return dict(
        type='EMAHook', ema_type=kind, update_buffers=bool(draw.random() < 0.5), priority=49
    )


# -- checkpoints ----------------------------------------------------------------------------------


def damage(draw: Draw, shapes: Path, work: Path) -> str:
    """A checkpoint that is cut or of which bytes are changed is read or answered, never anything else."""
    whole, read = checkpoint_bytes(draw), 0
    file = work / 'damaged.pth'
    for _ in range(100):
        content = bytearray(whole)
        if draw.random() < 0.3:
            del content[int(draw.integers(len(content))) :]
        for _ in range(int(draw.integers(1, 6))):
            if content:
                content[int(draw.integers(len(content)))] = int(draw.integers(256))
        file.write_bytes(content)
        try:
            read_checkpoint(file)
            read += 1
        except InputError:
            continue
        except BaseException as error:
            kept = Path(tempfile.gettempdir(), f'mmkd_damaged_{abs(hash(bytes(content)))}.pth')
            kept.write_bytes(content)
            raise Failure(f'{type(error).__name__}: {error}; the file is kept: {kept}') from error
    return f'100 damaged checkpoints of {len(whole)} bytes, {read} could be read'


def checkpoint_bytes(draw: Draw) -> bytes:
    """A checkpoint of a classifier in one of torch's two formats."""
    import io

    from mmengine.logging import HistoryBuffer

    hub = {
        'log_scalars': {'loss': HistoryBuffer([1.0], [1])},
        'runtime_info': {'iter': np.int64(3)},
    }
    content = dict(
        state_dict=h.build(h.classifier()).state_dict(), message_hub=hub, meta=dict(epoch=1)
    )
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=bool(draw.random() < 0.5))
    return buffer.getvalue()


def payloads(draw: Draw, shapes: Path, work: Path) -> str:
    """A hostile file at a random place of a random way in does not run."""
    name = str(draw.choice(sorted(CALLS.keys() - SLOW)))
    place, payload = str(draw.choice(PLACES)), str(draw.choice(sorted(PAYLOADS)))
    what = f'{payload} at {place} of {name}'
    with pytest.MonkeyPatch.context() as patch:
        try:
            test_no_call_runs_the_code_of_a_checkpoint(name, place, shapes, work, patch, payload)
        except AssertionError as error:
            raise Failure(f'{what}: {error or "it ran"}') from error
    return f'{what}: nothing ran'


# -- options --------------------------------------------------------------------------------------


def options(draw: Draw, shapes: Path, work: Path) -> str:
    """Any value of any option is taken or answered by a message that names the option."""
    answered = 0
    for _ in range(200):
        name, option = OPTIONS[int(draw.integers(len(OPTIONS)))]
        value = random_value(draw)
        try:
            built(TAKERS[name], option, value)
        except InputError as error:
            answered += 1
            if option not in str(error) and name != 'teacher':  # whose model is none
                raise Failure(f'{name}.{option}={value!r} is answered by {error}') from error
        except Exception as error:
            raise Failure(f'{name}.{option}={value!r}: {type(error).__name__}: {error}') from error
    return f'200 values of options, {answered} answered'


def random_value(draw: Draw, depth: int = 2) -> Any:
    """A number, a text, nothing, or a nest of these."""
    kind = int(draw.integers(7 if depth else 5))
    if kind == 0:
        return POOL[int(draw.integers(len(POOL)))]
    if kind == 1:
        return float(draw.normal()) * 10.0 ** int(draw.integers(-9, 10))
    if kind == 2:
        return int(draw.integers(-3, 9))
    if kind == 3:
        return str(
            draw.choice(['', 'auto', 'none', 'neck', 'full', 'backbone.layer3', 'cka', '../x'])
        )
    if kind == 4:
        return dict(type=str(draw.choice(['Ramp', 'CutOff', 'GradientShare', 'AdamW', 'cka', 'x'])))
    values = [random_value(draw, depth - 1) for _ in range(int(draw.integers(4)))]
    names = ['type', 'value', 'at', 'levels', 'until', 'target', 'low', 'encoder']
    return values if kind == 5 else {str(draw.choice(names)): value for value in values}


ATTACKS: dict[str, Callable[[Draw, Path, Path], str]] = {
    'kills': kills,
    'damage': damage,
    'payloads': payloads,
    'options': options,
}


if __name__ == '__main__':
    main()
