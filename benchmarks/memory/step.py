"""Peak memory of one training step, beside what it must be: the student's own, the teacher, its tapped maps.

All allocations and releases of a step on the CPU are read from PyTorch's profiler, in order. Weights,
gradients and the optimisers' states are included. Example:

    python benchmarks/memory/step.py --methods pkd kd --out benchmarks/memory/results/step.json

Needed is the peak of the student alone, the teacher's weights in the form in which it runs, and the maps that
the method reads of it, in single precision; what is more is the method's own.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MessageHub
from torch import nn
from torch.profiler import profile

sys.path.insert(0, str(Path(__file__).parents[1] / 'speed'))
from step_time import ITERATIONS, build, fake_batch, optimizers_of, step

METHODS = ('pkd', 'cwd', 'at', 'fitnet', 'kd', 'fgd', 'dpk', 'frskd')
MIB = 2**20


def held(tensors: Iterable[Any]) -> int:
    """Bytes of some tensors."""
    return sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))


def peak_of(model: nn.Module, size: int, count: int) -> int:
    """The most bytes that are held within the third step, weights and the optimisers' states included."""
    optimizers = optimizers_of(model)
    batch = fake_batch(model, size, count)
    for _ in range(2):  # the teacher finds its form, the optimisers their states
        step(model, optimizers, batch, 'none')
    for optimizer in optimizers:
        optimizer.zero_grad()
    kept = held([*model.parameters(), *model.buffers()]) + teacher_bytes(model)
    kept += sum(held(state.values()) for o in optimizers for state in o.state.values())
    with profile(profile_memory=True) as found:
        step(model, optimizers, batch, 'none')
    events = found.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == '[memory]')
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return kept + most


def teacher_bytes(model: nn.Module) -> int:
    """The weights of a Distiller's teachers; 0 of a student alone."""
    teachers = model.distillation.teachers if hasattr(model, 'distillation') else {}
    return sum(held([*t.parameters(), *t.buffers()]) for t in teachers.values())


def map_bytes(model: nn.Module, size: int, count: int) -> int:
    """The maps that the methods read of the teacher, in single precision."""
    data = model.data_preprocessor(fake_batch(model, size, count), True)
    total = 0
    for teacher in model.distillation.teachers.values():
        methods = model.distillation.methods.values()
        taps = [tap for m in methods if m.needs_teacher for tap in m.teacher_taps]
        seen = teacher.observe(data['inputs'], data['data_samples'], taps)
        total += sum(4 * t.numel() for tap in taps for t in seen[tap])
    return total


def main() -> None:
    """Measure and print; keep the results if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--student', default='retinanet')
    parser.add_argument('--methods', nargs='+', default=METHODS)
    parser.add_argument('--size', type=int, default=256)
    parser.add_argument('--batch-size', type=int, default=2)
    parser.add_argument('--out', type=Path, help='where the results go, as JSON')
    args = parser.parse_args()
    MessageHub.get_current_instance().update_info('max_iters', ITERATIONS)
    shape = args.size, args.batch_size
    torch.manual_seed(0)
    alone = peak_of(build(args.student, {}), *shape)
    rows = {'student alone': dict(peak=alone, needed=alone)}
    for name in args.methods:
        model = build(args.student, dict(methods={name: {}}))
        peak = peak_of(model, *shape)
        rows[name] = dict(peak=peak, needed=alone + teacher_bytes(model) + map_bytes(model, *shape))
    print('| | peak, MiB | needed, MiB | ratio |\n|---|---|---|---|')
    for name, row in rows.items():
        peak, needed = row['peak'], row['needed']
        print(f'| {name} | {peak / MIB:.0f} | {needed / MIB:.0f} | {peak / needed:.3f} |')
    if args.out:
        about = dict(torch=torch.__version__, machine=platform.machine())
        about |= dict(student=args.student, size=args.size, batch_size=args.batch_size)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        about['date'] = time.strftime('%Y-%m-%d')
        args.out.write_text(json.dumps(dict(about=about, bytes=rows), indent=1))


if __name__ == '__main__':
    main()
