"""Seconds of one training step (forward, backward, update), as ratios to the student alone.

All variants are built first and then run in turn, round by round, so that drift of the machine
meets them alike; the median over rounds is reported. Example:

    python benchmarks/speed/step_time.py --rounds 15 --out benchmarks/speed/results/step.json

The multiply-adds of convolutions and linear layers in the forward are counted beside.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from mmdet.testing import demo_mm_inputs
from mmengine.logging import MessageHub
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import MODELS, OPTIMIZERS, DefaultScope
from torch import nn

import mmkd
from mmkd.core.forms import PRECISIONS, timed
from mmkd.core.method import find_method
from mmkd.family.building import load_config, model_config
from mmkd.family.stages import task_of
from mmkd.training.fast import FastHook, settle
from mmkd.training.method_optimizers import parameter_groups

CONFIGS = Path(__file__).parents[1] / 'accuracy/configs'
STUDENTS = {
    'retinanet': 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
    'resnet18': 'mmpretrain::resnet/resnet18_8xb32_in1k.py',
    'resnet18_cifar': 'mmkd::cifar100/resnet18_cifar100.py',
    'resnet8_cifar': CONFIGS / 'cifar10_resnet8.py',
}
TEACHERS = {
    'retinanet': 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'resnet18': 'mmpretrain::resnet/resnet34_8xb32_in1k.py',
    'resnet8_cifar': CONFIGS / 'cifar10_resnet20.py',
}
ITERATIONS = 2000
"""Of the training that the steps are of."""
ON = dict(type='Piecewise', points=[(0, 1.0), (1, 1.0)])
"""What a method ramps up is measured as it is at the end of training."""
VARIANTS: dict[str, dict[str, Any]] = {
    'student alone': {},
    'all weights zero': dict(methods=dict(pkd=dict(weight=0.0), kd=dict(weight=0.0))),
    'pkd': dict(methods=dict(pkd={})),
    'pkd, measured each step': dict(methods=dict(pkd={}), share_every=1),
    'pkd, teacher exact': dict(methods=dict(pkd={}), teacher=dict(speed='exact')),
    'pkd, cached': dict(methods=dict(pkd={}), teacher=dict(cache='a temporary folder')),
    'cwd': dict(methods=dict(cwd={})),
    'at': dict(methods=dict(at={})),
    'fitnet': dict(methods=dict(fitnet={})),
    'fitnet, measured each step': dict(methods=dict(fitnet={}), share_every=1),
    'fgd': dict(methods=dict(fgd={})),
    'dpk full': dict(methods=dict(dpk=dict(size='full'))),
    'dpk light': dict(methods=dict(dpk=dict(size='light'))),
    'sfr': dict(methods=dict(sfr=dict(feature=ON))),
    'sfr, smoothed': dict(methods=dict(sfr=dict(feature=ON))),
    'frskd': dict(methods=dict(frskd=dict(alpha=ON, beta=ON))),
    'frskd, boxes too': dict(methods=dict(frskd=dict(alpha=ON, beta=ON, gamma=ON))),
    'frskd, shared head': dict(
        methods=dict(frskd=dict(alpha=ON, beta=ON, gamma=ON, head='shared'))
    ),
    'frskd, waiting': dict(methods=dict(frskd=dict(deep_supervision=False))),
    'kd': dict(methods=dict(kd={})),
    'student alone, --fast': dict(fast=True),
    'student alone, --fast --amp': dict(fast=True, amp='bf16'),
    'student alone, --amp': dict(amp='bf16'),
    'pkd, --fast': dict(methods=dict(pkd={}), fast=True),
    'pkd, --fast --amp': dict(methods=dict(pkd={}), fast=True, amp='bf16'),
    'pkd, --amp': dict(methods=dict(pkd={}), amp='bf16'),
    'dpk full, bf16': dict(methods=dict(dpk=dict(size='full', precision='bf16'))),
    'dpk light, bf16': dict(methods=dict(dpk=dict(size='light', precision='bf16'))),
    'pkd, teacher fused': dict(methods=dict(pkd={}), teacher=dict(fuse=True)),
    'pkd, teacher fused channels_last': dict(
        methods=dict(pkd={}), teacher=dict(fuse=True, channels_last=True)
    ),
    'pkd, teacher fused channels_last bf16': dict(
        methods=dict(pkd={}), teacher=dict(fuse=True, channels_last=True, precision='bf16')
    ),
}


def build(
    student: str, variant: dict[str, Any], guide: str | dict[str, str] | None = None
) -> nn.Module:
    """The student, or a Distiller of it, with an untrained teacher where a method needs one.

    Args:
        student: one of the students above.
        variant: methods, and options of the teacher.
        guide: the config of another teacher than the student's usual one, or those of several by name.
    """
    cfg = load_config(STUDENTS[student])
    scope = cfg.default_scope
    if 'methods' in variant:
        methods = variant['methods']
        needed = any(
            find_method(own.get('type', name)).needs_teacher for name, own in methods.items()
        )
        several = isinstance(guide, dict)
        weights = dict.fromkeys(guide, 'untrained') if several else 'untrained'
        teacher = (guide or TEACHERS[student], weights) if needed else (None, None)
        options = dict(teacher=variant.get('teacher', {})) if needed else {}
        cfg = mmkd.distill(STUDENTS[student], methods, *teacher, options)
        cfg.model.share_every = variant.get('share_every', 0)
    model = cfg.model if 'methods' in variant else model_config(cfg)
    for part in (model, model.get('student', {})):
        part.get('backbone', {}).pop('init_cfg', None)
    with DefaultScope.overwrite_default_scope(scope):
        built = MODELS.build(model)
    built.init_weights()
    if isinstance(built, mmkd.Distiller):
        built.distillation.optimizers_installed = True  # see optimizers_of
    return built.train()


def fake_batch(model: nn.Module, size: int, count: int) -> dict[str, Any]:
    """Noise with five boxes in each image, or with a label."""
    shapes = [[3, size, size]] * count
    if task_of(model) == 'detection':
        return demo_mm_inputs(count, shapes, num_items=[5] * count, num_classes=80)
    from mmpretrain.structures import DataSample

    images = [torch.randint(0, 256, shape, dtype=torch.uint8) for shape in shapes]
    samples = [
        DataSample(metainfo=dict(sample_idx=i)).set_gt_label(i % model.head.num_classes)
        for i in range(count)
    ]
    return dict(inputs=images, data_samples=samples)


def optimizers_of(model: nn.Module) -> list[torch.optim.Optimizer]:
    """SGD for the student, so slow that noise does not lead astray; as in training, a method's own."""
    methods = model.distillation.methods.values() if isinstance(model, mmkd.Distiller) else []
    own = [method for method in methods if method.optimizer is not None]
    apart = {id(p) for method in own for p in method.parameters()}
    rest = [p for p in model.parameters() if id(p) not in apart]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.SGD(rest, lr=1e-5, momentum=0.9)]
    return optimizers + [
        OPTIMIZERS.build(dict(method.optimizer, params=parameter_groups(method))) for method in own
    ]


def wrapper_of(optimizer: torch.optim.Optimizer, amp: str) -> OptimWrapper:
    """As ``--amp`` makes it."""
    kind = OptimWrapper if amp == 'none' else AmpOptimWrapper
    if amp != 'none' and not torch.cuda.is_available():
        kind = mmkd.CpuAmpOptimWrapper
    return kind(optimizer)


def step(
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    batch: dict[str, Any],
    amp: str,
    clock: str = 'wall',
) -> float:
    """Seconds of one step, to its end on the device; or those that the processor worked for it."""
    device = next(model.parameters()).device.type

    def train() -> None:
        data = model.data_preprocessor(batch, True)
        with torch.autocast(device, PRECISIONS.get(amp), enabled=amp in ('fp16', 'bf16')):
            loss, _ = model.parse_losses(model(**data, mode='loss'))
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    if clock == 'cpu':
        start = time.process_time()
        train()
        return time.process_time() - start
    return timed(train, device)


def multiply_adds(model: nn.Module, batch: dict[str, Any]) -> int:
    """Those of the convolutions and linear layers in one training forward."""
    counts = []

    def count(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        counts.append(output.numel() * module.weight[0].numel())

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    model(**model.data_preprocessor(batch, True), mode='loss')
    for hook in hooks:
        hook.remove()
    return sum(counts)


def measure(
    student: str,
    names: list[str],
    rounds: int,
    size: int,
    count: int,
    device: str = 'cpu',
    amp: str = 'none',
    guide: str | None = None,
    clock: str = 'wall',
    batches: int = 0,
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Times of every variant, one for each round, and its multiply-adds.

    So many batches come in turn, or with 0 a new one in each step.
    """
    runs = {}
    for name in names:
        torch.manual_seed(0)
        model = build(student, VARIANTS[name], guide).to(device)
        runs[name] = (model, optimizers_of(model))
        if VARIANTS[name].get('fast'):
            choice = FastHook().choice
            wrapper = wrapper_of(runs[name][1][0], VARIANTS[name].get('amp', amp))
            print(f'{name}: {settle(choice, model, wrapper, fake_batch(model, size, count))}')
    counted = {
        name: multiply_adds(model, fake_batch(model, size, count))
        for name, (model, _) in runs.items()
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    kept = [fake_batch(model, size, count) for _ in range(batches)]
    warm = max(2, batches)
    for index in range(rounds + warm):
        for name, (model, optimizers) in runs.items():
            own = VARIANTS[name].get('amp', amp)
            batch = kept[index % batches] if kept else fake_batch(model, size, count)
            seconds = step(model, optimizers, batch, own, clock)
            if index >= warm:
                times[name].append(seconds)
    return times, counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--student', default='retinanet', choices=list(STUDENTS))
    parser.add_argument('--teacher', help='the config of another teacher than the usual one')
    parser.add_argument('--variants', nargs='+', default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument(
        '--iterations', type=int, default=ITERATIONS, help='of the training that the steps are of'
    )
    parser.add_argument('--size', type=int, default=256)
    parser.add_argument('--batch-size', type=int, default=2)
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--amp', default='none', choices=['none', 'fp16', 'bf16'])
    parser.add_argument(
        '--clock',
        default='wall',
        choices=['wall', 'cpu'],
        help="cpu: the processor's time, which other work on the machine disturbs less",
    )
    parser.add_argument(
        '--batches', type=int, default=0, help='that come in turn; by default none comes again'
    )
    parser.add_argument('--out', type=Path, help='a JSON file with all times')
    args = parser.parse_args()
    # a teacher measures its fast forms at the start of a long training
    MessageHub.get_current_instance().update_info('max_iters', args.iterations)
    shape = args.rounds, args.size, args.batch_size
    running = args.device, args.amp, args.teacher, args.clock
    with tempfile.TemporaryDirectory() as folder:
        VARIANTS['pkd, cached']['teacher']['cache'] = folder
        times, counted = measure(args.student, args.variants, *shape, *running, args.batches)
    medians = {name: statistics.median(values) for name, values in times.items()}
    base = medians[args.variants[0]]
    print('| variant | s / step | ratio | multiply-adds |\n|---|---|---|---|')
    for name, seconds in medians.items():
        share = counted[name] / counted[args.variants[0]]
        print(f'| {name} | {seconds:.3f} | {seconds / base:.2f} | {share:.2f} |')
    if args.device == 'cuda':
        print(f'peak memory of all together: {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB')
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        about = dict(
            torch=torch.__version__, threads=torch.get_num_threads(), machine=platform.machine()
        )
        about.update(
            student=args.student,
            teacher=args.teacher or TEACHERS.get(args.student),
            multiply_adds=counted,
            size=args.size,
            batch_size=args.batch_size,
            iterations=args.iterations,
            batches=args.batches,
            device=args.device,
            amp=args.amp,
            clock=args.clock,
            date=time.strftime('%Y-%m-%d'),
        )
        args.out.write_text(json.dumps(dict(about=about, seconds=times), indent=1))


if __name__ == '__main__':
    main()
