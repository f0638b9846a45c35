"""What a teacher's answer takes from its cache, beside what it takes live. Example:

    python benchmarks/speed/teacher_cache.py --rounds 9 --out benchmarks/speed/results/teacher_cache.json

Every case is timed in turn: the plain teacher, its fast form on CPUs, the answer of that form from files that
the system still has in memory (`warm`) and from files that it was told to forget (`cold`), and writing them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from mmkd import Tap, Teacher
from mmkd.core.forms import EXACT, Form
from mmkd.family.building import load_config, model_config

FAST = Form(fuse=True, channels_last=True, precision='bf16')
DET, CLS = 'mmdet::retinanet/retinanet', 'mmpretrain::resnet/resnet'
CASES = {
    'RetinaNet R50, FPN, 256 px, batch 2': (f'{DET}_r50_fpn_1x_coco.py', 'neck', 256, 2),
    'RetinaNet R50, FPN, 512 px, batch 2': (f'{DET}_r50_fpn_1x_coco.py', 'neck', 512, 2),
    'RetinaNet R101, FPN, 256 px, batch 2': (f'{DET}_r101_fpn_2x_coco.py', 'neck', 256, 2),
    'RetinaNet R50, logits, 256 px, batch 2': (f'{DET}_r50_fpn_1x_coco.py', 'bbox_head', 256, 2),
    'ResNet-34, logits, 224 px, batch 8': (f'{CLS}34_8xb32_in1k.py', 'head', 224, 8),
    'ResNet-34, maps, 224 px, batch 8': (f'{CLS}34_8xb32_in1k.py', 'backbone', 224, 8),
}


def teacher(config: str, tap: str, form: Form, cache: str | None, size: int) -> Teacher:
    """An untrained teacher, always of the same weights."""
    torch.manual_seed(0)
    model = model_config(load_config(config))
    model.backbone.pop('init_cfg', None)
    guide = Teacher(model, 'untrained', cache=cache, inputs='student')
    guide.probe([Tap(tap)], [size])
    guide.take(form)
    return guide


def files_of(folder: str) -> list[Path]:
    return [path for path in Path(folder).rglob('*') if path.is_file()]


def forget(files: Iterable[Path]) -> None:
    """Let the system drop its copy of some files, as far as it does."""
    for path in files:
        with path.open('rb') as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(name: str, rounds: int, folder: str) -> dict[str, float]:
    """Medians in milliseconds for a batch, and the bytes of an image."""
    config, tap, size, count = CASES[name]
    guides = {
        'exact': teacher(config, tap, EXACT, None, size),
        'fast': teacher(config, tap, FAST, None, size),
        'cached': teacher(config, tap, FAST, folder, size),
    }
    times: dict[str, list[float]] = {}

    def timed(what: str, guide: str) -> None:
        start = time.perf_counter()
        guides[guide].observe(images)
        times.setdefault(what, []).append(1000 * (time.perf_counter() - start))

    images = torch.randn(count, 3, size, size)
    guides['cached'].observe(images)
    for _ in range(rounds):
        timed('exact', 'exact')
        timed('fast', 'fast')
        images = torch.randn(count, 3, size, size)
        before = {*files_of(folder)}
        timed('fast and written', 'cached')
        timed('warm', 'cached')
        forget({*files_of(folder)} - before)
        timed('cold', 'cached')
    found = {what: statistics.median(values) for what, values in times.items()}
    return found | {'bytes': files_of(folder)[0].stat().st_size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--cases', nargs='+', default=list(CASES), choices=list(CASES))
    parser.add_argument('--folder', help='on the disk that is to be measured')
    parser.add_argument('--out', type=Path, help='a JSON file')
    args = parser.parse_args()
    found = {}
    print('| | KB an image | exact | bf16 | bf16 and written | warm | cold |')
    print('|---|---|---|---|---|---|---|')
    for name in args.cases:
        folder = tempfile.mkdtemp(dir=args.folder)
        one = found[name] = measure(name, args.rounds, folder)
        shutil.rmtree(folder)
        shown = [one[what] for what in ('exact', 'fast', 'fast and written', 'warm', 'cold')]
        cells = ' | '.join(f'{value:.1f}' for value in shown)
        print(f'| {name} | {one["bytes"] / 1000:.0f} | {cells} |', flush=True)
    if args.out:
        about = dict(
            torch=torch.__version__,
            threads=torch.get_num_threads(),
            rounds=args.rounds,
            date=time.strftime('%Y-%m-%d'),
        )
        args.out.write_text(json.dumps(dict(about=about, milliseconds=found), indent=1))


if __name__ == '__main__':
    main()
