"""Step ratios of every registered method on one pair of networks, beside what multiply-adds predict.

    python benchmarks/speed/methods.py --list
    python benchmarks/speed/methods.py --methods pkd kd --rounds 9 --out benchmarks/speed/results/methods.json

Each method is tried on the pairs in their order; the first whose heads it takes is its pair. It is run in
turn with the student alone, round by round, with an exact teacher, and with all its terms as they are at the
end of training; the ratio is that of the medians. What is measured is added to the file: methods may come one
by one.

Predicted is the ratio of multiply-adds, forward and backward, of convolutions and matrix products, those of the
teacher's forward included. Element by element arithmetic, sorting and resizing are not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from step_time import ON, STUDENTS, TEACHERS, build, fake_batch, optimizers_of, step
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from mmkd import InputError
from mmkd.commands.methods import known_methods
from mmkd.family.building import load_config

TEACHERS['gfl'] = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
STUDENTS['gfl'] = load_config(TEACHERS['gfl'])
STUDENTS['gfl'].model.backbone.update(depth=18)
STUDENTS['gfl'].model.neck.update(in_channels=[64, 128, 256, 512])
TEACHERS['detr'] = 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'
STUDENTS['detr'] = load_config(TEACHERS['detr'])
STUDENTS['detr'].model.backbone.update(depth=18)
STUDENTS['detr'].model.neck.update(in_channels=[128, 256, 512])
PAIRS = {'gfl': (256, 2), 'resnet18': (224, 4), 'detr': (256, 2)}
"""Size of the images and of the batch on each pair."""
RAMPED = {'sfr': ('feature',), 'frskd': ('alpha', 'beta')}
"""What is ramped up and measured as at the end."""
OPTIONS = {name: dict(images=50_000) for name in ('crd', 'pskd')}
"""What a method must be told where there are no training data."""


def variant(name: str) -> dict[str, Any]:
    """A method as it is at the end of training, with a teacher as it is."""
    options = dict.fromkeys(RAMPED.get(name, ()), ON) | OPTIONS.get(name, {})
    return dict(methods={name: options}, teacher=dict(speed='exact'))


def built(name: str) -> tuple[str, nn.Module]:
    """The first pair that a method takes, and its Distiller there."""
    reasons = []
    for pair in PAIRS:
        torch.manual_seed(0)
        try:
            return pair, build(pair, variant(name))
        except InputError as error:
            reasons.append(str(error))
    raise InputError(f'{name}: on none of the pairs: {"; ".join(reasons)}')


def convolution_backward(*shapes: Any, out_shape: Any = None, **rest: Any) -> int:
    """Operations of a convolution's backward pass; torch's own count takes grouped ones for whole ones."""
    gradient, inputs, weight, *_, transposed, _, _, wanted = shapes
    return sum(wanted[:2]) * conv_flop_count(inputs, weight, gradient, transposed)


BACKWARD = {torch.ops.aten.convolution_backward: convolution_backward}


def work(model: nn.Module, batch: dict[str, Any]) -> int:
    """Multiply-adds of one step, forward and backward, the teacher's forward included."""
    counter = FlopCounterMode(display=False, custom_mapping=BACKWARD)
    with counter:
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
        model.parse_losses(losses)[0].backward()
    return counter.get_total_flops() // 2


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Times of a method and of the student alone, and their multiply-adds."""
    pair, model = built(name)
    size, count = PAIRS[pair]
    torch.manual_seed(0)
    runs = {'alone': build(pair, {}), 'method': model}
    works = {key: work(run, fake_batch(run, size, count)) for key, run in runs.items()}
    optimizers = {key: optimizers_of(run) for key, run in runs.items()}
    times: dict[str, list[float]] = {key: [] for key in runs}
    warm = 12 if any(m.share for m in model.distillation.methods.values()) else 2
    for index in range(rounds + warm):
        for key, run in runs.items():
            seconds = step(run, optimizers[key], fake_batch(run, size, count), 'none')
            if index >= warm:  # a share of the gradient is measured in the first ten iterations
                times[key].append(round(seconds, 4))
    medians = {key: statistics.median(values) for key, values in times.items()}
    return dict(
        pair=pair,
        ratio=round(medians['method'] / medians['alone'], 3),
        predicted=round(works['method'] / works['alone'], 3),
        seconds=times,
        multiply_adds=works,
        date=time.strftime('%Y-%m-%d'),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    own = [n for n, kind in known_methods().items() if kind.__module__.startswith('mmkd.')]
    parser.add_argument('--methods', nargs='+', default=own, choices=own)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--list', action='store_true', help='print the pair of each, and no more')
    parser.add_argument('--out', type=Path, help='a JSON file, to which is added')
    args = parser.parse_args()
    found = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    for name in args.methods:
        try:
            if args.list:
                print(name, built(name)[0])
                continue
            found[name] = measure(name, args.rounds)
        except InputError as error:
            print(error)
            continue
        got = found[name]
        print(f'{name} on {got["pair"]}: {got["ratio"]} (predicted {got["predicted"]})', flush=True)
        if args.out:
            args.out.write_text(json.dumps(dict(sorted(found.items())), indent=1) + '\n')


if __name__ == '__main__':
    main()
