"""Predictions counted: which classes are taken for which, and how good each class and size is."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ...errors import InputError
from ..picture import LEAST_OVERLAP, Box, overlap
from .networks import Data

BACKGROUND = 'background'
"""The row of boxes where nothing is, and the column of objects that nothing found."""
SIZES = ('small objects', 'medium objects', 'large objects')
IGNORED = 255
"""Pixels that segmentation leaves out."""


@dataclass
class Tally:
    """What a network said of some images.

    Attributes:
        names: of classes; of detectors the background is the last.
        confusion: how often a class (row) was taken for another (column).
        scores: by class, and by size of a detector's objects.
        measure: what the scores are.
        boxes: of a detector, image by image.
    """

    names: list[str]
    confusion: np.ndarray
    scores: dict[str, float] = field(default_factory=dict)
    measure: str = ''
    boxes: dict[int, list[Box]] = field(default_factory=dict)


def tally(task: str, data: Data, samples: Iterable[tuple[int, Any]], score: float) -> Tally:
    """Count what a network of a task says.

    Args:
        task: ``detection``, ``classification`` or ``segmentation``.
        data: the images.
        samples: what it says of each, by the image's place.
        score: boxes of less are no answers where classes are confused.
    """
    if task == 'detection':
        return tally_boxes(data, samples, score)
    if task == 'classification':
        return tally_labels(data.classes, (_labels(sample) for _, sample in samples))
    if task == 'segmentation':
        return tally_labels(data.classes, (_pixels(sample) for _, sample in samples), pixels=True)
    raise InputError('what this network predicts cannot be counted')


# -- classes of images and of pixels ---------------------------------------------------------------


def tally_labels(
    names: Sequence[str], pairs: Iterable[tuple[np.ndarray, np.ndarray]], pixels: bool = False
) -> Tally:
    """Count true and predicted labels; the score is the accuracy of a class, of pixels its IoU.

    >>> found = tally_labels(['cat', 'dog'], [(np.array([0, 0, 1]), np.array([0, 1, 1]))])
    >>> found.confusion.tolist(), found.scores
    ([[1, 1], [0, 1]], {'cat': 0.5, 'dog': 1.0})
    """
    count = len(names)
    confusion = np.zeros((count, count), dtype=int)
    for truth, said in pairs:
        known = (truth >= 0) & (truth < count) & (said < count)
        flat = truth[known] * count + said[known]
        confusion += np.bincount(flat, minlength=count**2).reshape(count, count)
    right, rows, columns = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    every = rows + columns - right if pixels else rows
    scores = {n: r / e for n, r, e in zip(names, right.tolist(), every.tolist()) if e}
    return Tally(list(names), confusion, scores, 'IoU' if pixels else 'accuracy')


def _labels(sample: Any) -> tuple[np.ndarray, np.ndarray]:
    truth, said = (getattr(sample, name).cpu().numpy() for name in ('gt_label', 'pred_label'))
    if len(truth) != 1:
        raise InputError('an image has several labels')
    return truth, said


def _pixels(sample: Any) -> tuple[np.ndarray, np.ndarray]:
    truth = sample.gt_sem_seg.data.cpu().numpy().ravel().astype(int)
    said = sample.pred_sem_seg.data.cpu().numpy().ravel().astype(int)
    return truth[truth != IGNORED], said[truth != IGNORED]


# -- boxes -----------------------------------------------------------------------------------------


def tally_boxes(data: Data, samples: Iterable[tuple[int, Any]], score: float) -> Tally:
    """Match boxes with objects: which classes are confused, and the AP of classes and sizes."""
    names, boxes = data.classes, {}
    for place, sample in samples:
        found = sample.pred_instances
        boxes[place] = [
            Box(names[label], placed(box), value)
            for box, value, label in zip(
                found.bboxes.tolist(), found.scores.tolist(), found.labels.tolist()
            )
        ]
    truth = {place: objects_of(data, place) for place in boxes}
    confusion = np.zeros((len(names) + 1,) * 2, dtype=int)
    for place, every in truth.items():
        objects, sure = [o for o in every if not o.crowd], sure_boxes(boxes[place], score)
        confusion += confused(sure, objects, names)
    return Tally(
        [*names, BACKGROUND], confusion, average_precisions(truth, boxes, names), 'AP', boxes
    )


def placed(corners: Sequence[float]) -> tuple[float, float, float, float]:
    """Left, top, width and height of a box of two corners.

    >>> placed([1.0, 2.0, 4.0, 6.0])
    (1.0, 2.0, 3.0, 4.0)
    """
    left, top, right, bottom = corners
    return left, top, right - left, bottom - top


def objects_of(data: Data, place: int) -> list[Box]:
    """The objects of an image."""
    info, found = data.dataset.get_data_info(place), []
    for one in info.get('instances', []):
        where, crowd = placed(one['bbox']), bool(one.get('ignore_flag'))
        area = data.areas.get((info.get('img_id'), *map(round, where)))
        found.append(Box(data.classes[one['bbox_label']], where, None, area, crowd))
    return found


def sure_boxes(boxes: Iterable[Box], score: float) -> list[Box]:
    """The boxes of at least a score.

    >>> sure_boxes([Box('ring', (0, 0, 1, 1), 0.2)], 0.3)
    []
    """
    return [box for box in boxes if (box.score or 0.0) >= score]


def confused(boxes: Sequence[Box], objects: Sequence[Box], names: Sequence[str]) -> np.ndarray:
    """How often a class (row) was taken for another (column); the last of both is the background.

    The surest box takes the object that it overlaps most, whatever its class, if at least by half.

    >>> ring, star = (Box(name, (0, 0, 10, 10), 0.9) for name in ('ring', 'star'))
    >>> confused([star], [ring, Box('star', (50, 0, 10, 10))], ['ring', 'star']).tolist()
    [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    """
    counts, left = np.zeros((len(names) + 1,) * 2, dtype=int), list(objects)
    for box in sorted(boxes, key=lambda box: -(box.score or 0.0)):
        best = max(left, key=lambda other: overlap(box, other), default=None)
        hit = best is not None and overlap(box, best) >= LEAST_OVERLAP
        counts[names.index(best.name) if hit and best else -1, names.index(box.name)] += 1
        if hit and best is not None:
            left.remove(best)
    for missed in left:
        counts[names.index(missed.name), -1] += 1
    return counts


def average_precisions(
    truth: dict[int, list[Box]], boxes: dict[int, list[Box]], names: Sequence[str]
) -> dict[str, float]:
    """COCO's AP of each class, and of each size; what the images have none of is left out.

    >>> ring = Box('ring', (0, 0, 10, 10))
    >>> average_precisions({0: [ring]}, {0: [Box('ring', (0, 0, 10, 10), 0.9)]}, ['ring', 'star'])
    {'ring': 1.0, 'small objects': 1.0}
    """
    coco = COCO()
    coco.dataset = dict(
        images=[dict(id=place) for place in truth],
        categories=[dict(id=i, name=name) for i, name in enumerate(names)],
        annotations=_annotations(truth, names),
    )
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        found = coco.loadRes(own) if (own := _annotations(boxes, names)) else COCO()
        judge = COCOeval(coco, found, 'bbox')
        judge.params.imgIds = sorted(truth)
        judge.params.catIds = list(range(len(names)))
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval['precision'][..., -1]  # overlap, recall, class, size
    parts = {name: precision[:, :, i, 0] for i, name in enumerate(names)}
    parts |= {size: precision[:, :, :, 1 + i] for i, size in enumerate(SIZES)}
    return {k: round(float(v[v > -1].mean()), 6) for k, v in parts.items() if (v > -1).any()}


def _annotations(boxes: dict[int, list[Box]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Boxes in COCO's form."""
    every = [(place, box) for place, some in boxes.items() for box in some]
    return [
        dict(
            id=number, image_id=place, category_id=names.index(box.name), bbox=list(box.place),
            area=box.place[2] * box.place[3] if box.area is None else box.area,
            iscrowd=int(box.crowd), score=box.score or 0.0,
        )
        for number, (place, box) in enumerate(every, 1)
    ]  # fmt: skip
