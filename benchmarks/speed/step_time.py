"""Seconds of one training step (forward, backward, update), as ratios to the student alone.

All variants are built first and then run in turn, round by round, so that drift of the machine
meets them alike; the median over rounds is reported. Example:

    python benchmarks/speed/step_time.py --rounds 15 --out benchmarks/speed/results/step.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from mmdet.testing import demo_mm_inputs
from mmengine.registry import MODELS, DefaultScope

import mmkd
from mmkd.configs import load_config, model_config

STUDENT = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
TEACHER = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
VARIANTS: dict[str, dict[str, Any]] = {
    'student alone': {},
    'all weights zero': dict(methods=dict(pkd=dict(weight=0.0), kd=dict(weight=0.0))),
    'pkd': dict(methods=dict(pkd={})),
    'cwd': dict(methods=dict(cwd={})),
    'at': dict(methods=dict(at={})),
    'fitnet': dict(methods=dict(fitnet={})),
    'fgd': dict(methods=dict(fgd={})),
    'dpk full': dict(methods=dict(dpk={})),
    'dpk light': dict(methods=dict(dpk=dict(size='light'))),
    'kd (head runs too)': dict(methods=dict(kd={})),
    'pkd, teacher fused': dict(methods=dict(pkd={}), teacher=dict(fuse=True)),
    'pkd, teacher fused channels_last': dict(
        methods=dict(pkd={}), teacher=dict(fuse=True, channels_last=True)
    ),
    'pkd, teacher fused channels_last bf16': dict(
        methods=dict(pkd={}), teacher=dict(fuse=True, channels_last=True, precision='bf16')
    ),
}


def build(variant: dict[str, Any]) -> torch.nn.Module:
    """The student, or a Distiller of it with an untrained teacher."""
    if not variant:
        model = model_config(load_config(STUDENT))
    else:
        options = dict(teacher=variant.get('teacher', {}))
        cfg = mmkd.distill(STUDENT, variant['methods'], TEACHER, 'untrained', options)
        model = cfg.model
        model.student.backbone.init_cfg = None
    model.get('backbone', {}).pop('init_cfg', None)
    with DefaultScope.overwrite_default_scope('mmdet'):
        built = MODELS.build(model)
    built.init_weights()
    if isinstance(built, mmkd.Distiller):
        built.distillation.optimizers_installed = True  # see optimizers_of
    return built.train()


def optimizers_of(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """SGD for the student; as in training, AdamW for a method that asks for an optimiser of its own."""
    methods = model.distillation.methods.values() if isinstance(model, mmkd.Distiller) else []
    own = [list(method.parameters()) for method in methods if method.optimizer is not None]
    apart = {id(p) for parameters in own for p in parameters}
    rest = [p for p in model.parameters() if id(p) not in apart]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.SGD(rest, lr=1e-3, momentum=0.9)]
    return optimizers + [torch.optim.AdamW(parameters, lr=1e-4) for parameters in own]


def step(
    model: torch.nn.Module, optimizers: list[torch.optim.Optimizer], batch: dict[str, Any]
) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    data = model.data_preprocessor(batch, True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return time.perf_counter() - start


def measure(names: list[str], rounds: int, size: int, batch_size: int) -> dict[str, list[float]]:
    """Times of every variant, one for each round."""
    runs = {}
    for name in names:
        torch.manual_seed(0)
        model = build(VARIANTS[name])
        runs[name] = (model, optimizers_of(model))
    shapes = [[3, size, size]] * batch_size
    times: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds + 2):
        for name, (model, optimizers) in runs.items():
            batch = demo_mm_inputs(batch_size, shapes, num_items=[5] * batch_size, num_classes=80)
            seconds = step(model, optimizers, batch)
            if index >= 2:  # the first two rounds warm up
                times[name].append(seconds)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--variants', nargs='+', default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--size', type=int, default=256)
    parser.add_argument('--batch-size', type=int, default=2)
    parser.add_argument('--out', type=Path, help='a JSON file with all times')
    args = parser.parse_args()
    times = measure(args.variants, args.rounds, args.size, args.batch_size)
    medians = {name: statistics.median(values) for name, values in times.items()}
    base = medians[args.variants[0]]
    print('| variant | s / step | ratio |\n|---|---|---|')
    for name, seconds in medians.items():
        print(f'| {name} | {seconds:.3f} | {seconds / base:.2f} |')
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        about = dict(
            torch=torch.__version__, threads=torch.get_num_threads(), machine=platform.machine()
        )
        about.update(size=args.size, batch_size=args.batch_size, date=time.strftime('%Y-%m-%d'))
        args.out.write_text(json.dumps(dict(about=about, seconds=times), indent=1))


if __name__ == '__main__':
    main()
