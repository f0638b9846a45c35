"""How the cost of a step grows, and whether anything grows faster than the student's forward.

    python benchmarks/speed/scaling.py --axes batch size --out benchmarks/speed/results/scaling.json
    python benchmarks/speed/scaling.py --table --plot docs/images/scaling.svg

One thing grows at a time. At each point the student's forward, its step and the step with each method are run
in turn, and the processor's time is taken; teachers are exact and untrained, and terms are as at the end of
training. What a method adds is the median over rounds of its step less the student's, in forwards of the
student. Multiply-adds are counted beside, as by ``methods.py``. A point that is in the file is not measured
again, and the file is written after each, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger

sys.path.insert(0, str(Path(__file__).parent))
from methods import variant, work
from step_time import TEACHERS, build, fake_batch, optimizers_of, step
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

RESULTS = Path(__file__).parent / 'results/scaling.json'
ALL = ('pkd', 'kd', 'dpk', 'frskd', 'sfr')
SEVERAL = ('pkd', 'cwd', 'fitnet', 'at')
"""Methods that are added one after the other."""
WARM = 12
"""Small steps at first: a share of the gradient is measured in ten iterations."""
SECONDS = 20.0
"""About so long a point takes, once it is warm."""
MOST, FEWEST = 15, 3
"""Rounds."""
Point = dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """What grows, on which pair of networks, what the images are meanwhile, and what cannot be run."""

    grows: str
    pair: str
    values: tuple[int, ...]
    methods: tuple[str, ...] = ALL
    size: int = 128
    count: int = 1
    left_out: tuple[tuple[str, int], ...] = ()

    def shape(self, value: int) -> tuple[int, int]:
        """The size of the images and their number."""
        size = value if self.grows == 'size' else self.size
        return size, value if self.grows == 'batch' else self.count


AXES = {
    'batch': Axis('batch', 'resnet18', (1, 4, 16, 64), size=112),
    'batch of a detector': Axis('batch', 'retinanet', (1, 4, 8), size=192),
    # a BatchNorm of FRSKD's would see one value: P7 has one place
    'size': Axis('size', 'retinanet', (128, 256, 512, 1024), left_out=(('frskd', 128),)),
    'size for a classifier': Axis('size', 'resnet18', (64, 112, 224, 448)),
    'levels': Axis('levels', 'retinanet', (1, 2, 3, 4, 5), ('pkd', 'dpk', 'sfr'), 256),
    'teachers': Axis('teachers', 'retinanet', (1, 2, 3), ('pkd', 'kd', 'dpk'), 256),
    'methods': Axis('methods', 'retinanet', (1, 2, 3, 4), ('feature methods',), 256),
}


def plan(axis: Axis, method: str, value: int) -> tuple[Point, dict[str, str] | None] | None:
    """The variant at a point, and its teachers if there are several; None where there is none."""
    if (method, value) in axis.left_out:
        return None
    if axis.grows == 'methods':
        return dict(
            methods={name: {} for name in SEVERAL[:value]}, teacher=dict(speed='exact')
        ), None
    found = variant(method)
    if axis.grows == 'levels':
        taps = levels(method, value)
        found['methods'][method] |= dict(tap=taps)
        return (found, None) if taps else None
    if axis.grows == 'teachers':
        names = [f't{index}' for index in range(value)]
        own = {f'{method}_{t}': dict(type=method, teacher=t) for t in names}
        exact = {name: dict(speed='exact') for name in names}
        return dict(methods=own, teacher=exact), dict.fromkeys(names, TEACHERS[axis.pair])
    return found, None


def levels(method: str, count: int) -> Point | None:
    """So many levels of a neck, from the largest on; of SFR the last of the backbone's four."""
    if method == 'sfr':
        return dict(at='backbone', levels=[*range(4 - count, 4)]) if 2 <= count <= 4 else None
    return dict(at='neck', levels=[*range(count)])


class Run:
    """A model with its optimisers, warm."""

    def __init__(self, axis: Axis, found: Point, guide: dict[str, str] | None = None) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = build(axis.pair, found, guide)
        self.optimizers = optimizers_of(self.model)
        for _ in range(WARM):
            self.step(64, 2)

    def step(self, size: int, count: int) -> float:
        """Seconds of one step."""
        batch = fake_batch(self.model, size, count)
        return step(self.model, self.optimizers, batch, 'none', 'cpu')

    def forward(self, size: int, count: int) -> float:
        """Seconds of one forward to the loss."""
        batch = self.model.data_preprocessor(fake_batch(self.model, size, count), True)
        start = time.process_time()
        self.model.parse_losses(self.model(**batch, mode='loss'))
        return time.process_time() - start

    def multiply_adds(self, size: int, count: int) -> int:
        """Those of one step, the teacher's forward included."""
        return work(self.model, fake_batch(self.model, size, count))

    def forward_multiply_adds(self, size: int, count: int) -> int:
        """Those of one forward."""
        with FlopCounterMode(display=False) as counter:
            self.forward(size, count)
        return counter.get_total_flops() // 2


def measure(runs: dict[str, Run], size: int, count: int) -> dict[str, Point]:
    """Times and multiply-adds of the student and of each method, taking turns."""
    student = runs['alone']
    start = time.process_time()
    works = {name: run.multiply_adds(size, count) for name, run in runs.items()}
    works['forward'] = student.forward_multiply_adds(size, count)
    rounds = round(SECONDS / (time.process_time() - start))
    times: dict[str, list[float]] = {name: [] for name in ('forward', *runs)}
    for _ in range(max(FEWEST, min(MOST, rounds))):
        times['forward'].append(student.forward(size, count))
        for name, run in runs.items():
            times[name].append(run.step(size, count))
    own = ('forward', 'alone')
    return {
        name: dict(
            seconds={key: [round(t, 5) for t in times[key]] for key in (*own, name)},
            multiply_adds={key: works[key] for key in (*own, name)},
            torch=torch.__version__,
            threads=torch.get_num_threads(),
            date=time.strftime('%Y-%m-%d'),
        )
        for name in runs
        if name != 'alone'
    }


def missing(axis: Axis, methods: list[str] | None, found: Point) -> Iterator[tuple[int, list[str]]]:
    """The values at which something is not measured yet, and what."""
    for value in axis.values:
        names = [
            name
            for name in axis.methods
            if (methods is None or name in methods)
            and plan(axis, name, value)
            and name not in found.get(str(value), {})
        ]
        if names:
            yield value, names


def grown(axis: Axis, methods: list[str] | None, found: Point) -> Iterator[int]:
    """Measure what is missing along an axis, value by value; models are built once if they stay."""
    kept: dict[str, Run] = {}
    for value, names in missing(axis, methods, found):
        plans = {name: plan(axis, name, value) for name in names} | {'alone': ({}, None)}
        keys = {name: repr(planned) for name, planned in plans.items()}
        kept = {key: run for key, run in kept.items() if key in keys.values()}
        runs = {}
        for name, planned in plans.items():
            kept[keys[name]] = runs[name] = kept.get(keys[name]) or Run(axis, *planned)
        found.setdefault(str(value), {}).update(measure(runs, *axis.shape(value)))
        yield value


# -- what comes of it ------------------------------------------------------------------------------


def points_of(found: Point, name: str) -> dict[int, Point]:
    """What is measured of a method along an axis, by value."""
    return {
        int(value): found[value][name] for value in sorted(found, key=int) if name in found[value]
    }


def forward(point: Point) -> float:
    """Seconds of the student's forward."""
    return statistics.median(point['seconds']['forward'])


def extra(point: Point, name: str) -> float:
    """Seconds that a method adds to the student's step."""
    times = point['seconds']
    return statistics.median(own - alone for own, alone in zip(times[name], times['alone']))


def predicted(point: Point, name: str) -> float:
    """The multiply-adds that it adds, in those of the student's forward."""
    works = point['multiply_adds']
    return (works[name] - works['alone']) / works['forward']


def power(points: list[Point], costs: list[float]) -> str:
    """The power of the forward's multiply-adds with which a cost grows, over the last two values."""
    works = [point['multiply_adds']['forward'] for point in points[-2:]]
    if len(set(works)) < 2 or min(costs[-2:]) <= 0:
        return ''
    return f'{math.log(costs[-1] / costs[-2]) / math.log(works[1] / works[0]):.2f}'


def table(axis: Axis, found: Point) -> str:
    """What each method adds along an axis, in forwards of the student; in brackets by multiply-adds."""
    own = {name: points_of(found, name) for name in axis.methods}
    whole = next(points for points in own.values() if len(points) == max(map(len, own.values())))
    seconds = [forward(point) for point in whole.values()]
    lines = [
        [axis.grows, *map(str, whole), 'power'],
        ['---'] * (len(whole) + 2),
        ['forward, s', *(f'{each:.3f}' for each in seconds), power([*whole.values()], seconds)],
    ]
    for name, points in own.items():
        costs = {value: extra(point, name) for value, point in points.items()}
        cells = {
            value: f'{costs[value] / forward(point):.2f} ({predicted(point, name):.2f})'
            for value, point in points.items()
        }
        grown = power([*points.values()], [*costs.values()])
        lines.append([name, *(cells.get(value, '') for value in whole), grown])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def draw(found: Point, path: Path) -> None:
    """One panel for each axis: what methods add, in forwards of the student."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    matplotlib.rcParams.update({'svg.hashsalt': 'mmkd', 'svg.fonttype': 'none', 'font.size': 9})
    figure, panels = pyplot.subplots(2, 4, figsize=(12, 5.6))
    for panel, name in zip(panels.flat, AXES):
        axis = AXES[name]
        for method in axis.methods:
            points = points_of(found[name], method)
            ratios = [extra(point, method) / forward(point) for point in points.values()]
            color = f'C{ALL.index(method)}' if method in ALL else 'C5'
            panel.plot([*points], ratios, marker='o', markersize=4, color=color, label=method)
        panel.set(title=name, ylim=(0, None))
        if axis.grows in ('batch', 'size'):
            panel.set_xscale('log', base=2)
        panel.set_xticks(axis.values, labels=map(str, axis.values))
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    for row in panels:
        row[0].set_ylabel("added, in the student's forwards")
    lines = {line.get_label(): line for panel in panels.flat for line in panel.lines}
    panels[-1][-1].axis('off')
    panels[-1][-1].legend(lines.values(), lines.keys(), loc='center', frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={'Date': None} if path.suffix == '.svg' else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--axes', nargs='+', default=list(AXES), choices=list(AXES))
    parser.add_argument('--methods', nargs='+', help='only these of those of an axis')
    parser.add_argument('--table', action='store_true', help='measure nothing, show what is there')
    parser.add_argument('--out', type=Path, default=RESULTS, help='the JSON file')
    parser.add_argument('--plot', type=Path, help='where the plot goes')
    args = parser.parse_args()
    MMLogger.get_current_instance().setLevel('WARNING')
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name in args.axes:
        own = found.setdefault(name, {})
        for _ in () if args.table else grown(AXES[name], args.methods, own):
            args.out.write_text(json.dumps(found, indent=1) + '\n')
        if own:
            print(f'\n{name}\n\n{table(AXES[name], own)}', flush=True)
    if args.plot:
        draw(found, args.plot)


if __name__ == '__main__':
    main()
