"""The demonstration: a teacher, a student, and the same student distilled, on drawn data."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.ops import nms
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmengine.utils import get_installed_path
from rich.console import Console
from rich.table import Table

from .. import torchvision_cure
from ..datasets import CLASSES, make_shapes
from ..family.building import build_model, load_config, model_config
from ..files.checkpoints import load_weights, read_checkpoint, weights_of

TEACHER = 'configs/shapes/rtmdet_tiny_shapes.py'
STUDENT = 'configs/shapes/rtmdet_pico_shapes.py'
DATA = 'data/shapes'
METHOD = 'kd'

COLOURS = (
    (60, 60, 230),
    (60, 200, 60),
    (230, 140, 40),
    (40, 200, 230),
    (220, 60, 200),
    (180, 180, 40),
)


@dataclass
class Result:
    """One line of the table."""

    name: str
    ap: float
    ap50: float
    parameters: int
    seconds: float


def run_demo(root: Path, out: Path) -> list[Result]:
    """Train, distil, compare, draw and verify.

    Args:
        root: the checkout.
        out: where runs and the picture go.
    """
    console, start = Console(highlight=False, soft_wrap=True), time.time()
    console.rule('data drawn by code')
    make_shapes(root / DATA)
    teacher = _train(console, root, out, 'teacher', TEACHER)
    student = _train(console, root, out, 'student', STUDENT)
    flags = ['--distill', METHOD, '--teacher', TEACHER]
    flags += ['--teacher-checkpoint', str(checkpoint(out / 'teacher'))]
    distilled = _train(console, root, out, 'distilled', STUDENT, *flags)
    console.rule('the distilled checkpoint in plain mmdet, without mmkd')
    plain = evaluate_in_plain_mmdet(root, STUDENT, checkpoint(out / 'distilled'), out / 'plain')
    results = [teacher, student, distilled]
    console.print(_table(results))
    same = 'the same' if plain == distilled.ap else f'NOT the same ({distilled.ap:.4f})'
    console.print(f'AP of the distilled checkpoint in plain mmdet: {plain:.4f}, {same}')
    picture = draw_comparison(root, out)
    console.print(f'picture (ground truth | student alone | distilled): {picture}')
    console.print(f'{time.time() - start:.0f} seconds')
    if plain != distilled.ap:
        raise RuntimeError('the distilled checkpoint gives another AP in plain mmdet')
    return results


def checkpoint(run: Path) -> Path:
    """The last checkpoint of a run."""
    return Path((run / 'last_checkpoint').read_text().strip())


def evaluate_in_plain_mmdet(root: Path, config: str, weights: Path, out: Path) -> float:
    """AP by mmdet's own test tool in a process that cannot import mmkd.

    Only torchvision is cured where its compiled part cannot load, because mmengine imports it for its
    environment report.
    """
    tool = Path(get_installed_path('mmdet'), '.mim/tools/test.py')
    code = (
        'import runpy, sys;'
        f"runpy.run_path({str(Path(torchvision_cure.__file__))!r})['install']();"
        "sys.modules['mmkd'] = None;"
        f'sys.argv = {[str(tool), config, str(weights), "--work-dir", str(out)]!r};'
        f"runpy.run_path({str(tool)!r}, run_name='__main__')"
    )
    lines = list(_lines([sys.executable, '-c', code], root))
    found = [match for line in lines if (match := re.search(r'coco/bbox_mAP: ([\d.]+)', line))]
    if not found:
        raise RuntimeError('mmdet printed no AP:\n' + '\n'.join(lines[-20:]))
    return float(found[-1].group(1))


def draw_comparison(root: Path, out: Path, images: int = 4) -> Path:
    """One picture: a row for each image; ground truth, student alone, distilled side by side.

    Of each detector as many of the surest boxes are drawn as there are objects.
    """
    cfg = load_config(root / STUDENT)
    models = [_trained(cfg, checkpoint(out / name)) for name in ('student', 'distilled')]
    coco = json.loads((root / DATA / 'annotations/val.json').read_text())
    rows = []
    for info in coco['images'][:images]:
        path = root / DATA / 'images/val' / info['file_name']
        truth = [a for a in coco['annotations'] if a['image_id'] == info['id']]
        boxes = [(a['category_id'] - 1, _corners(a['bbox']), None) for a in truth]
        panels = [boxes, *(_predict(cfg, model, path)[: len(boxes)] for model in models)]
        rows.append(np.hstack([_panel(path, panel) for panel in panels]))
    header = _header(rows[0].shape[1], ('ground truth', 'student alone', 'distilled'))
    picture = out / 'comparison.png'
    cv2.imwrite(str(picture), np.vstack([header, *rows]))
    return picture


# -- training --------------------------------------------------------------------------------------


def _train(console: Console, root: Path, out: Path, name: str, config: str, *flags: str) -> Result:
    run = out / name
    arguments = ['tools/train.py', config, '--work-dir', str(run), *flags]
    console.rule(name)
    console.print('python ' + ' '.join(arguments), style='dim')
    for line in _lines([sys.executable, *arguments], root):
        _show_progress(console, line)
    metrics = _scalars(run)
    values = [m for m in metrics if 'coco/bbox_mAP' in m][-1]
    times = [m['time'] for m in metrics if 'loss' in m]
    weights = weights_of(read_checkpoint(checkpoint(run)))
    plain = build_model(model_config(load_config(root / config)))
    load_weights(plain, weights)
    return Result(
        name if not flags else f'distilled ({METHOD})',
        values['coco/bbox_mAP'],
        values['coco/bbox_mAP_50'],
        sum(p.numel() for p in plain.parameters()),
        float(np.median(times)),
    )


def _lines(command: list[str], root: Path) -> Iterator[str]:
    """The output of a command, line by line; an error if it fails."""
    process = subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    last: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        last = [*last[-30:], line.rstrip()]
        yield line.rstrip()
    if process.wait():
        raise RuntimeError('\n'.join([f'{" ".join(command)} failed:', *last]))


def _show_progress(console: Console, line: str) -> None:
    match = re.search(r'Epoch\((?:train|val)\).*?(?=coco/bbox_mAP_75|$)', line)
    if match is None:
        return
    step = re.search(r'\[\s*(\d+)/\s*\d+\]', match.group())
    if 'train' in match.group() and step is not None and int(step.group(1)) % 50:
        return
    text = re.sub(r'base_lr: \S+\s+|data_time: \S+\s+|grad_norm: \S+\s+', '', match.group())
    console.print(re.sub(r'\s+', ' ', text), markup=False)


def _scalars(run: Path) -> list[dict[str, Any]]:
    """All that the newest run in a work dir logged."""
    newest = max(run.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in newest.read_text().splitlines()]


def _table(results: list[Result]) -> Table:
    table = Table('', 'AP', 'AP50', 'parameters', 's / iteration')
    for r in results:
        size = f'{r.parameters / 1e6:.2f} M'
        table.add_row(r.name, f'{r.ap:.3f}', f'{r.ap50:.3f}', size, f'{r.seconds:.3f}')
    return table


# -- the picture -----------------------------------------------------------------------------------

Box = tuple[int, list[float], Any]
"""Label, corners, score (None for ground truth)."""


def _trained(cfg: Any, weights: Path) -> Any:
    model = build_model(model_config(cfg))
    load_weights(model, weights_of(read_checkpoint(weights)))
    return model.eval()


@torch.no_grad()
def _predict(cfg: Any, model: Any, path: Path) -> list[Box]:
    with DefaultScope.overwrite_default_scope('mmdet'):
        steps = [s for s in cfg.val_dataloader.dataset.pipeline if s.type != 'LoadAnnotations']
        data = Compose(steps)(dict(img_path=str(path), img_id=0))
    batch = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
    found = model.test_step(batch)[0].pred_instances
    _, kept = nms(found.bboxes, found.scores, 0.5)  # one class a place, the surest first
    found = found[kept]
    return list(zip(found.labels.tolist(), found.bboxes.tolist(), found.scores.tolist()))


def _corners(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y + height]


def _panel(path: Path, boxes: list[Box], scale: int = 2, size: int = 328) -> np.ndarray:
    image = np.asarray(cv2.imread(str(path)))
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    for label, corners, score in boxes:
        left, top, right, bottom = (int(scale * value) for value in corners)
        text = CLASSES[label] + ('' if score is None else f' {score:.2f}')
        cv2.rectangle(image, (left, top), (right, bottom), COLOURS[label], 2)
        for colour, width in ((0, 0, 0), 3), ((255, 255, 255), 1):
            place = (left + 2, max(top + 12, 12))
            cv2.putText(
                image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, width, cv2.LINE_AA
            )
    canvas = np.full((size, size, 3), 255, np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image[:size, :size]
    return canvas


def _header(width: int, titles: tuple[str, ...]) -> np.ndarray:
    bar = np.full((26, width, 3), 255, np.uint8)
    for index, title in enumerate(titles):
        place = (index * width // len(titles) + 6, 18)
        cv2.putText(bar, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return bar
