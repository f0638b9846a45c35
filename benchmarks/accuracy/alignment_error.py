"""How far the alignment of sketched maps is from that of whole maps, beside what the choice of images does.

    python benchmarks/accuracy/alignment_error.py --data DIR --out results/alignment_error.json

Real maps: of ResNet-20 and ResNet-56 trained on CIFAR-10, and of YOLOX-nano fine-tuned on BCCD beside the small
YOLOX that has learned from it without labels; weights as ``study.py`` makes them.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.registry import MODELS, DefaultScope
from PIL import Image
from torch import Tensor

from mmkd.family.building import load_config, model_config
from mmkd.files.checkpoints import load_weights
from mmkd.losses.cka import cka, cka_of_terms
from mmkd.losses.sketch import hsic_terms_of_sketches, numbers_for, sketch

sys.path.insert(0, str(Path(__file__).parent))
from study import BEGUN, CONFIGS, OUT

DRAWS = 12
"""Batches drawn for each figure."""


def maps_of(config: str, checkpoint: Path, images: Tensor) -> list[Tensor]:
    """A network's maps of some images, level by level."""
    cfg = load_config(CONFIGS + config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(model_config(cfg)).eval()
    weights = torch.load(checkpoint, weights_only=False)
    load_weights(model, weights.get('state_dict', weights))
    features = model.extract_feat
    if cfg.default_scope == 'mmpretrain':
        features, model.backbone.out_indices = model.backbone, (0, 1, 2)
    with torch.no_grad():
        parts = [features(part) for part in images.split(32)]
    return [torch.cat(level) for level in zip(*parts)]


def cifar(data: Path, number: int = 512) -> Tensor:
    """Normalised test images."""
    content = np.load(data / 'cifar10/cifar10_jpgbytes.npz')
    buffer, offsets = content['test_bytes'], content['test_off']
    files = [io.BytesIO(buffer[offsets[i] : offsets[i + 1]].tobytes()) for i in range(number)]
    images = torch.tensor(np.stack([np.asarray(Image.open(file)) for file in files]))
    images = images.permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)))
    return (images - mean) / std


def cells(data: Path, size: tuple[int, int], number: int = 96) -> Tensor:
    """Images of blood cells, as YOLOX takes them."""
    files = sorted((data / 'bccd/BCCD/JPEGImages').glob('*.jpg'))[:number]
    images = [np.asarray(Image.open(file).convert('RGB').resize(size)) for file in files]
    return torch.tensor(np.stack(images)).permute(0, 3, 1, 2).float()


def pairs(data: Path) -> Iterator[tuple[str, list[Tensor], list[Tensor]]]:
    """The maps of a student and a teacher."""
    images = cifar(data)
    sides = [
        maps_of(f'cifar10_resnet{n}_pretrained.py', OUT / f'resnet{n}.pth', images)
        for n in (20, 56)
    ]
    yield 'CIFAR-10', sides[0], sides[1]
    for size in ((256, 192), (1024, 768)):
        images = cells(data, size)
        student = maps_of('bccd_yolox_half.py', BEGUN, images)
        teacher = maps_of('bccd_yolox_nano.py', OUT / 'bccd_yolox_nano.pth', images)
        yield f'BCCD, {size[0]} x {size[1]}', student, teacher


def figures(name: str, x: Tensor, y: Tensor) -> Iterator[dict[str, Any]]:
    """For several sizes of batch: root mean squares over batches drawn at random."""
    rng, whole = torch.Generator().manual_seed(0), cka(x, y).item()
    for images in (8, 16, 64, 256):
        if images > len(x) // 2:
            continue
        numbers, sampling, sketching = numbers_for(images), [], []
        for _ in range(DRAWS):
            drawn = torch.randperm(len(x), generator=rng)[:images]
            exact = cka(x[drawn], y[drawn]).item()
            short = hsic_terms_of_sketches(*(sketch(side[drawn], numbers) for side in (x, y)))
            sampling.append(exact - whole)
            sketching.append(cka_of_terms(short).clamp(-1, 1).item() - exact)
        yield dict(
            maps=f'{name}, {list(x.shape[1:])}',
            alignment=round(whole, 3),
            images=images,
            numbers=numbers,
            choice_of_images=rms(sampling),
            sketch=rms(sketching),
            sketch_mean=round(float(np.mean(sketching)), 4),
        )


def rms(values: list[float]) -> float:
    return round(float(np.sqrt(np.mean(np.square(values)))), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data', type=Path, default='data', help='the folder of the data sets')
    parser.add_argument('--out', type=Path, help='a JSON file for the figures')
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, student, teacher in pairs(args.data.resolve()):
        for x, y in zip(student, teacher):
            for row in figures(name, x, y):
                print(row, flush=True)
                rows.append(row)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + '\n')


if __name__ == '__main__':
    main()
