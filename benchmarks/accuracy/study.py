"""Students trained alone and distilled in several ways, over several seeds.

    python benchmarks/accuracy/study.py cifar10 --data DIR [--seeds 0 1 2] [--arms alone kd]

``DIR`` holds ``cifar10/cifar10_jpgbytes.npz`` and ``bccd/`` (see the README here); the data of the
study ``shapes`` is drawn. Every run is one ``tools/train.py``. Its result is written when it ends, so
that a study can be stopped and called again: what is there is not run again. The table is printed
from the results on disk.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from mmkd.datasets import make_shapes

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OUT = Path('work_dirs/accuracy')
CIFAR_IMAGES = {
    'train': ('train', 0, 10_000),
    'val': ('train', 10_000, 12_000),
    'test': ('test', 0, 2_000),
}
"""Of each split: where its images come from, and which of them in a fixed random order."""

CIFAR_DPK = [
    'dpk.size=light', 'dpk.logits=1.0', 'dpk.task_weight=1.0', 'dpk.feature=0.3',
    'dpk.level_weights=[0.6,1.0]', 'dpk.optimizer.lr=1e-3',
]  # fmt: skip
CIFAR_SHARED_DPK = (
    'dpk.size=light',
    'dpk.task_weight=1.0',
    'dpk.temperature=4.0',
    'dpk.optimizer.lr=1e-3',
)
CIFAR_HELD_OUT = tuple(f'{part}_dataloader.dataset.data_prefix=val' for part in ('val', 'test'))
SHARES = (0.1, 0.3, 1.0, 3.0)
BCCD_DPK = ['dpk.optimizer.lr=1e-3']
LAMBDAS = (0.05, 0.2, 0.5, 2.0)
RATES = (0.05, 0.1, 0.2, 0.4)
FRSKD_WEIGHTS = ((2.0, 100.0), (2.0, 10.0))


@dataclass(frozen=True)
class Arm:
    """A way to train the student: a method, or none, and its options."""

    method: str | None = None
    options: tuple[str, ...] = ()


SELF_ARMS = {
    'cifar10': {
        'alone': Arm(),
        'frskd': Arm('frskd'),
        'frskd, no features': Arm('frskd', ('frskd.feature=None',)),
        'frskd, no logits': Arm('frskd', ('frskd.alpha=0',)),
        'sfr': Arm('sfr', ('sfr.feature=0.05',)),
        'sfr, no features': Arm('sfr', ('sfr.feature=0',)),
        'sfr, no smoothing': Arm('sfr', ('sfr.feature=0.05', 'sfr.smoothing=0')),
    },
    'bccd': {
        'alone': Arm(),
        'frskd': Arm('frskd'),
        'frskd, no features': Arm('frskd', ('frskd.feature=None',)),
        'sfr': Arm('sfr'),
        'sfr, no boxes': Arm('sfr', ('sfr.boxes=False',)),
    },
}


@dataclass(frozen=True)
class Study:
    """A student, the arms that are compared, and a teacher if one of them needs it.

    Attributes:
        data: the data set.
        student: its config.
        metric: the score that counts.
        arms: by name.
        options: config options that every run gets.
        teacher: the config of a teacher, which is trained first, unless
        weights: are those of a teacher that is trained already.
    """

    data: str
    student: str
    metric: str
    arms: dict[str, Arm]
    options: tuple[str, ...] = ()
    teacher: str | None = None
    weights: str | None = None


def studies(data: Path) -> dict[str, Study]:
    """All studies, with their data in a folder."""
    cifar = dict(data='cifar10', student='cifar10_resnet8.py', metric='accuracy/top1')
    bccd = dict(data='bccd', metric='coco/bbox_mAP')
    bccd_self = dict(**bccd, student='bccd_rtmdet_pico_30e.py')
    shapes = '../../../configs/shapes/'
    return {
        'cifar10': Study(
            **cifar,
            teacher='cifar10_resnet20.py',
            arms={
                'alone': Arm(),
                'kd (T=4)': Arm('kd'),
                'kd (T=1)': Arm('kd', ('kd.temperature=1.0',)),
                'dpk, ratio 0.5': Arm('dpk', (*CIFAR_DPK, 'dpk.ratio=0.5')),
                'dpk, dynamic': Arm('dpk', (*CIFAR_DPK, 'dpk.ratio=cka')),
            },
        ),
        'cifar10_self': Study(**cifar, arms=SELF_ARMS['cifar10']),
        'cifar10_shares': Study(
            **cifar,
            teacher='cifar10_resnet20_pretrained.py',
            weights=str(OUT / 'resnet20.pth'),
            arms={
                'alone': Arm(),
                'kd': Arm('kd'),
                'dpk, published': Arm('dpk', tuple(CIFAR_DPK)),
                'pkd': Arm('pkd'),
            }
            | {f'kd, share {v}': Arm('kd', shared('kd', v)) for v in SHARES}
            | {f'pkd, share {v}': Arm('pkd', shared('pkd', v)) for v in SHARES}
            | {
                f'dpk, share {v}': Arm('dpk', (*CIFAR_SHARED_DPK, *shared('dpk', v)))
                for v in SHARES
            },
            options=CIFAR_HELD_OUT,
        ),
        'cifar10_tuning': Study(
            **cifar,
            arms={'alone': Arm()}
            | {
                f'sfr, lambda {v}': Arm('sfr', (f'sfr.feature={v}', 'sfr.smoothing=0'))
                for v in LAMBDAS
            }
            | {f'sfr, eps {v}': Arm('sfr', ('sfr.feature=0', f'sfr.smoothing={v}')) for v in RATES}
            | {
                f'frskd, alpha {a}, beta {b}': Arm('frskd', (f'frskd.alpha={a}', f'frskd.beta={b}'))
                for a, b in FRSKD_WEIGHTS
            },
            options=CIFAR_HELD_OUT,
        ),
        'bccd': Study(
            **bccd,
            student='bccd_rtmdet_pico.py',
            teacher='bccd_rtmdet_tiny.py',
            arms={
                'alone': Arm(),
                'fgd': Arm('fgd'),
                'dpk, ratio 0.5': Arm('dpk', (*BCCD_DPK, 'dpk.ratio=0.5')),
                'dpk, dynamic': Arm('dpk', (*BCCD_DPK, 'dpk.ratio=cka')),
                'dpk, dynamic, light': Arm('dpk', (*BCCD_DPK, 'dpk.size=light')),
            },
            options=bccd_options(data, 'test'),
        ),
        'bccd_self': Study(**bccd_self, arms=SELF_ARMS['bccd'], options=bccd_options(data, 'test')),
        'bccd_tuning': Study(
            **bccd_self,
            arms={'alone': Arm()}
            | {f'sfr, lambda {v}': Arm('sfr', (f'sfr.feature={v}',)) for v in LAMBDAS},
            options=bccd_options(data, 'val'),
        ),
        'shapes': Study(
            data='shapes',
            student=f'{shapes}rtmdet_pico_shapes.py',
            teacher=f'{shapes}rtmdet_tiny_shapes.py',
            metric='coco/bbox_mAP',
            arms={
                'alone': Arm(),
                'dpk, dynamic': Arm('dpk', ('dpk.size=light', 'dpk.optimizer.lr=1e-3')),
            },
        ),
    }


def shared(method: str, share: float) -> tuple[str, ...]:
    """The weight of a method by gradient share."""
    return f'{method}.weight.type=GradientShare', f'{method}.weight.target={share}'


def bccd_options(data: Path, split: str) -> tuple[str, ...]:
    """Where the data set is, and what it is evaluated on."""
    root = f'{data / "bccd"}/'
    truth = f'annotations/{split}.json'
    evaluated = [
        option
        for part in ('val', 'test')
        for option in (
            f'{part}_dataloader.dataset.ann_file={truth}',
            f'{part}_evaluator.ann_file={root}{truth}',
        )
    ]
    parts = ('train', 'val', 'test')
    return (*(f'{part}_dataloader.dataset.data_root={root}' for part in parts), *evaluated)


@dataclass
class Run:
    """One training run and what came out."""

    arm: str
    seed: int
    score: float
    seconds: float
    date: str
    machine: str
    command: list[str]
    curves: dict[str, list[float]]


def main() -> None:
    args = parse_args()
    os.chdir(ROOT)
    console = Console(highlight=False, soft_wrap=True)
    data = args.data.resolve()
    study = studies(data)[args.study]
    if study.data == 'cifar10':
        write_cifar(data / 'cifar10/cifar10_jpgbytes.npz', OUT / 'data/cifar10')
    if study.data == 'shapes':
        make_shapes(ROOT / 'data/shapes')
    results = HERE / 'results' / f'{args.study}.json'
    runs = [Run(**run) for run in json.loads(results.read_text())] if results.exists() else []
    wanted = [] if study.teacher is None or study.weights else [('teacher', 0)]
    wanted += [(arm, seed) for seed in args.seeds for arm in args.arms or study.arms]
    for arm, seed in wanted:
        if not any((run.arm, run.seed) == (arm, seed) for run in runs):
            console.print(f'{args.study}: {arm}, seed {seed}')
            runs.append(run_one(args.study, study, arm, seed, args.threads, data))
            results.write_text(json.dumps([asdict(run) for run in runs], indent=1) + '\n')
    console.print(table(args.study, study, runs))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('study', choices=list(studies(Path())))
    parser.add_argument('--data', type=Path, default='data', help='the folder of the data sets')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--arms', nargs='+', help='by default all')
    parser.add_argument('--threads', type=int, default=1, help='threads of a run')
    return parser.parse_args()


def run_one(name: str, study: Study, arm: str, seed: int, threads: int, data: Path) -> Run:
    """Train once with ``tools/train.py`` and read what its log says."""
    work = OUT / name / f'{"".join(c if c.isalnum() else "_" for c in arm)}_{seed}'
    command = [sys.executable, 'tools/train.py', *arguments(name, study, arm)]
    command += ['--work-dir', str(work), '--cfg-options', *study.options]
    command += [f'randomness.seed={seed}', 'default_hooks.logger.interval=20']
    OUT.mkdir(parents=True, exist_ok=True)
    start = time.time()
    with (OUT / f'{name}.log').open('a') as log:
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
        subprocess.run(command, check=True, stdout=log, stderr=log, env=environment)
    seconds = time.time() - start
    scalars = max(work.glob('*/vis_data/scalars.json'))
    entries = [json.loads(line) for line in scalars.read_text().splitlines()]
    shown = ['python', *(word.replace(f'{data}/', 'DIR/') for word in command[1:])]
    return Run(
        arm,
        seed,
        next(e[study.metric] for e in reversed(entries) if study.metric in e),
        round(seconds),
        date.today().isoformat(),
        f'{platform.processor() or platform.machine()}, {threads} thread of {os.cpu_count()}',
        shown,
        curves_of(entries),
    )


def arguments(name: str, study: Study, arm: str) -> list[str]:
    """What ``tools/train.py`` is told of an arm."""
    folder = 'benchmarks/accuracy/configs'
    if arm == 'teacher':
        return [f'{folder}/{study.teacher}']
    chosen = study.arms[arm]
    flags = [f'{folder}/{study.student}']
    if chosen.method is None:
        return flags
    flags += ['--distill', chosen.method]
    if study.teacher is not None:
        trained = OUT / name / 'teacher_0/last_checkpoint'
        checkpoint = study.weights or os.path.relpath(trained.read_text().strip())
        flags += ['--teacher', f'{folder}/{study.teacher}', '--teacher-checkpoint', checkpoint]
    return [*flags, *(['--distill-options', *chosen.options] if chosen.options else [])]


def curves_of(entries: list[dict[str, Any]]) -> dict[str, list[float]]:
    """The mean of each logged ratio and alignment in every epoch."""
    names = sorted({key for e in entries for key in e if '/ratio.' in key or '/cka.' in key})
    epochs = sorted({e['epoch'] for e in entries if 'epoch' in e})
    return {
        name: [
            round(statistics.mean(e[name] for e in entries if e.get('epoch') == n and name in e), 4)
            for n in epochs
            if any(e.get('epoch') == n and name in e for e in entries)
        ]
        for name in names
    }


def write_cifar(source: Path, folder: Path) -> None:
    """The first images of each split as files in a folder for each class."""
    if (folder / 'complete').exists():
        return
    content = np.load(source)
    names = [str(name) for name in content['names']]
    for split, (part, begin, end) in CIFAR_IMAGES.items():
        data, offsets = content[f'{part}_bytes'], content[f'{part}_off']
        for index in np.random.default_rng(0).permutation(len(offsets) - 1)[begin:end]:
            name = names[content[f'{part}_y'][index]]
            target = folder / split / name / f'{index:05d}.png'
            target.parent.mkdir(parents=True, exist_ok=True)
            jpeg = data[offsets[index] : offsets[index + 1]].tobytes()
            Image.open(io.BytesIO(jpeg)).save(target)
    (folder / 'complete').touch()


def table(name: str, study: Study, runs: list[Run]) -> Table:
    """Mean and standard deviation of every arm."""
    shown = Table(title=f'{name}: {study.metric}')
    for column in ('arm', 'mean', 'deviation', 'seeds', 'seconds'):
        shown.add_column(column)
    for arm in ['teacher', *study.arms]:
        scores = [run.score for run in runs if run.arm == arm]
        if scores:
            deviation = f'{statistics.stdev(scores):.4f}' if len(scores) > 1 else '-'
            seconds = statistics.mean(run.seconds for run in runs if run.arm == arm)
            values = [f'{statistics.mean(scores):.4f}', deviation, str(len(scores))]
            shown.add_row(arm, *values, f'{seconds:.0f}')
    return shown


if __name__ == '__main__':
    main()
