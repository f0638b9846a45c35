"""How the cost of an image, and what ranks tell each other, grow; about ten minutes on one core.

    python benchmarks/speed/scaling.py --out benchmarks/speed/results/scaling.json \\
        --plot docs/images/scaling.svg

Batch, image size, levels, teachers and methods grow one at a time. A step is split into data, the student's
forward, backward, optimiser, teacher and each method; backward is of all together. Student alone and distilled
take turns; medians. Teachers are exact and untrained. Each call adds a run to the file, with its machine and
versions; ``--only bytes`` or the like measures a part.

Bytes are those that a rank gives to collective operations in one step, of a process group that is not there,
beside the bytes of all gradients, which distributed training exchanges anyway.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from step_time import TEACHERS, build, fake_batch, optimizers_of
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

EXACT = dict(speed='exact')
PKD = dict(pkd={})
ADDED = ('pkd', 'cwd', 'at', 'fitnet')
EXCHANGING = ('pkd', 'cwd', 'fitnet', 'kd', 'fgd', 'dpk')
Point = dict[str, Any]


def points() -> dict[str, dict[int, Point]]:
    """What is measured, by what grows and how far."""
    small = dict(student='resnet18', size=64, count=8, methods=PKD)
    boxes = dict(student='retinanet', size=128, count=2, methods=PKD)
    guide = TEACHERS['resnet18']
    several = {
        n: dict(
            small,
            methods={f'pkd{i}': dict(type='mmkd.PKD', teacher=f't{i}') for i in range(n)},
            guide={f't{i}': guide for i in range(n)},
        )
        for n in (1, 2, 3)
    }
    taps = {n: dict(pkd=dict(tap=dict(at='neck', levels=[*range(n)]))) for n in (1, 3, 5)}
    return {
        'batch': {n: dict(small, count=n) for n in (1, 4, 16, 64)},
        'image size': {n: dict(boxes, size=n, count=1) for n in (128, 256, 512, 1024)},
        'levels': {n: dict(boxes, methods=methods) for n, methods in taps.items()},
        'teachers': several,
        'methods': {n: dict(small, methods={key: {} for key in ADDED[:n]}) for n in (1, 2, 4)},
    }


def split(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], batch: Any
) -> dict[str, float]:
    """Seconds of the parts of one step."""
    found: dict[str, float] = defaultdict(float)
    undo = [] if not hasattr(model, 'distillation') else watch(model.distillation, found)
    marks = [time.perf_counter()]
    data = model.data_preprocessor(batch, True)
    marks.append(time.perf_counter())
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    marks.append(time.perf_counter())
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    marks.append(time.perf_counter())
    for optimizer in optimizers:
        optimizer.step()
    marks.append(time.perf_counter())
    for holder, name in undo:
        del vars(holder)[name]
    ends = zip(('data', 'forward', 'backward', 'optimiser'), marks, marks[1:])
    parts = {name: end - start for name, start, end in ends}
    parts['forward'] -= sum(found.values())
    return parts | found | dict(total=marks[-1] - marks[0])


def watch(distillation: Any, found: dict[str, float]) -> list[tuple[Any, str]]:
    """Let teachers and methods add their seconds to what is found."""

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            answer = function(*args, **kwargs)
            found[name] += time.perf_counter() - start
            return answer

        return run

    watched = [(t, 'observe', 'teacher') for t in distillation.teachers.values()]
    watched += [(m, 'forward', name) for name, m in distillation.methods.items()]
    for holder, attribute, name in watched:
        vars(holder)[attribute] = timed(name, getattr(holder, attribute))
    return [(holder, attribute) for holder, attribute, _ in watched]


def measured(point: Point, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of the parts of a step for one image, of the student alone and distilled, taking turns."""
    runs = {}
    for name in ('alone', 'distilled'):
        torch.manual_seed(0)
        variant = {} if name == 'alone' else dict(methods=point['methods'])
        variant |= dict(teacher=EXACT) if variant and 'guide' not in point else {}
        guide = point.get('guide') if variant else None
        model = build(point['student'], variant, guide)
        for teacher in model.distillation.teachers.values() if variant else ():
            teacher.speed = 'exact'
        runs[name] = (model, optimizers_of(model), list[dict[str, float]]())
    for index in range(rounds + 1):
        for model, optimizers, found in runs.values():
            parts = split(model, optimizers, fake_batch(model, point['size'], point['count']))
            if index:
                found.append(parts)
    return {
        name: {
            part: statistics.median(f[part] for f in found) / point['count'] for part in found[0]
        }
        for name, (_, _, found) in runs.items()
    }


class Exchanged(TorchDispatchMode):
    """Counts the bytes that go into collective operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == 'c10d':
            # gathering names what comes in first, then what is given
            given = args[1] if 'allgather' in func.__name__ else args[0]
            self.count += sum(t.nbytes for t in tensors(given))
        return func(*args, **(kwargs or {}))


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of a nest of lists."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for item in value for t in tensors(item)] if isinstance(value, (list, tuple)) else []


def exchanged(student: str, methods: dict[str, Any], size: int, ranks: int = 2) -> dict[str, int]:
    """Bytes that a rank gives in its third step, beside those of its gradients."""
    dist.init_process_group('fake', rank=0, world_size=ranks, store=FakeStore())
    try:
        model = build(student, dict(methods=methods, teacher=EXACT) if methods else {})
        for _ in range(3):
            data = model.data_preprocessor(fake_batch(model, size, 2), True)
            with Exchanged() as seen:
                model.parse_losses(model(**data, mode='loss'))[0].backward()
    finally:
        dist.destroy_process_group()
    return dict(bytes=seen.count, gradients=sum(4 * p.numel() for p in model.parameters()))


def drawn(run: dict[str, Any], path: Path) -> None:
    """One panel for each thing that grows: milliseconds for an image, alone and distilled."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    axes = {name: rows for name, rows in run['seconds'].items() if rows}
    figure, panels = pyplot.subplots(1, len(axes), figsize=(3 * len(axes), 2.8), squeeze=False)
    for panel, (name, rows) in zip(panels[0], axes.items()):
        for kind, style in (('alone', '--'), ('distilled', '-')):
            values = [1000 * row[kind]['total'] for row in rows.values()]
            panel.plot([int(n) for n in rows], values, style, marker='o', label=kind)
        panel.set(xlabel=name, ylim=(0, None))
        if name in ('batch', 'image size'):
            panel.set_xscale('log', base=2)
    panels[0][0].set_ylabel('ms for an image')
    panels[0][0].legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Measure, print, keep and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--only', nargs='+', choices=[*points(), 'bytes'])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--out', type=Path, help='a JSON file to which the run is added')
    parser.add_argument('--plot', type=Path, help='where the plot goes')
    args = parser.parse_args()
    wanted = args.only or [*points(), 'bytes']
    run: dict[str, Any] = dict(
        torch=torch.__version__, threads=torch.get_num_threads(), machine=platform.machine(),
        cores=os.cpu_count(), date=time.strftime('%Y-%m-%d'), seconds={}, exchanged={},
    )  # fmt: skip
    print(
        '| grows | to | alone, ms | distilled, ms | ratio | teacher, ms | methods, ms |\n'
        + '|---' * 7
        + '|'
    )
    for name, rows in points().items():
        for value, point in rows.items() if name in wanted else ():
            found = measured(point, args.rounds)
            run['seconds'].setdefault(name, {})[value] = found
            alone, own = found['alone'], found['distilled']
            known = ('data', 'forward', 'backward', 'optimiser', 'teacher', 'total')
            methods = sum(seconds for part, seconds in own.items() if part not in known)
            print(
                f'| {name} | {value} | {1e3 * alone["total"]:.1f} | {1e3 * own["total"]:.1f} | '
                f'{own["total"] / alone["total"]:.2f} | {1e3 * own["teacher"]:.1f} | {1e3 * methods:.1f} |',
                flush=True,
            )
    for name in EXCHANGING if 'bytes' in wanted else ():
        for size in (256, 512):
            run['exchanged'][f'{name}, {size} px'] = row = exchanged('retinanet', {name: {}}, size)
            print(
                f'{name}, {size} px: {row["bytes"]} bytes, gradients {row["gradients"]}', flush=True
            )
    if args.out:
        runs = json.loads(args.out.read_text()) if args.out.exists() else []
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps([*runs, run], indent=1))
    if args.plot:
        drawn(run, args.plot)


if __name__ == '__main__':
    main()
