"""A data set drawn by code: coloured, rotated, overlapping, partly hidden shapes on textured ground.

It is always there, of any size, and the same for the same seed. One drawing serves detection and
instance segmentation (COCO JSON with boxes and masks), semantic segmentation (class maps) and
classification (folders of crops).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from pycocotools import mask as coco_mask
from rich.progress import track

from ..errors import InputError

CLASSES = ('circle', 'ring', 'square', 'triangle', 'star', 'cross')
SPLITS = ('train', 'val')
SUBPIXEL = 4
"""Bits of subpixel precision of drawn outlines."""

LEAST_VISIBLE = 0.5
"""A shape of which less than this share would stay visible is not covered further."""

LEAST_CONTRAST = 60
"""How far a shape's colour is from the ground's in at least one channel."""

MARK = 'shapes.json'
"""The file that tells how a folder was made; it is written last."""

Array = np.ndarray


@dataclass(frozen=True)
class ShapesSpec:
    """How a data set is drawn.

    Attributes:
        train: images for training.
        val: images for validation.
        seed: where the drawing starts; image i depends on the seed and i alone.
        smallest: the least height or width of an image.
        largest: the greatest height or width.
        objects: the greatest number of shapes in one image.
        small: the least radius of a shape, in per cent of the image's shorter side.
        large: the greatest radius of a shape.
        crop: height and width of the classification crops.
    """

    train: int = 720
    val: int = 200
    seed: int = 0
    smallest: int = 128
    largest: int = 160
    objects: int = 6
    small: int = 8
    large: int = 28
    crop: int = 64

    def __post_init__(self) -> None:
        """Answer numbers of which nothing can be drawn."""
        least = dict(train=1, val=1, seed=0, smallest=16, largest=self.smallest, objects=2, crop=1)
        least |= dict(small=1, large=self.small)
        for name, bound in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < bound:
                raise InputError(f'{name}={value!r}; needed: a whole number, {bound} or more')


@dataclass
class Drawing:
    """One image with its instances."""

    image: Array
    labels: list[int]
    masks: list[Array]

    def class_map(self) -> Array:
        """Class of each pixel: 0 is ground, i + 1 is ``CLASSES[i]``."""
        result = np.zeros(self.image.shape[:2], np.uint8)
        for label, mask in zip(self.labels, self.masks):
            result[mask] = label + 1
        return result


def make_shapes(root: str | Path, spec: ShapesSpec | None = None, quiet: bool = False) -> Path:
    """Draw the data set into a folder; one that is there with the same spec is kept.

    Args:
        root: the folder.
        spec: what to draw.
        quiet: no progress bar.
    """
    spec, root = spec or ShapesSpec(), Path(root)
    mark = root / MARK
    if mark.is_file() and json.loads(mark.read_text()) == asdict(spec):
        return root
    for split in SPLITS:
        _write_split(root, split, spec, quiet)
    mark.write_text(json.dumps(asdict(spec)))
    return root


def draw(spec: ShapesSpec, split: str, index: int) -> Drawing:
    """Draw one image.

    >>> first, again = (draw(ShapesSpec(), 'train', 3) for _ in range(2))
    >>> bool((first.image == again.image).all()), len(first.labels) == len(first.masks) > 0
    (True, True)
    """
    rng = np.random.default_rng([spec.seed, SPLITS.index(split), index])
    height, width = rng.integers(spec.smallest, spec.largest + 1, 2)
    ground = rng.uniform(40, 215, 3)
    image = _texture(rng, height, width, ground, contrast=25)
    drawing = Drawing(image, [], [])
    _add_clutter(rng, drawing.image)
    full_areas: list[int] = []
    for _ in range(int(rng.integers(2, spec.objects + 1))):
        _place(rng, drawing, full_areas, ground, (spec.small / 100, spec.large / 100))
    _hide_behind_bar(rng, drawing, full_areas)
    drawing.image = np.clip(drawing.image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)
    return drawing


# -- outlines, in the unit circle ----------------------------------------------------------------


def _regular(corners: int, phase: float = 0.0) -> Array:
    angles = 2 * np.pi * np.arange(corners) / corners + phase
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _star() -> Array:
    points = _regular(10)
    points[1::2] *= 0.45
    return points


def _cross() -> Array:
    a = 0.35
    quarter = [(1, -a), (1, a), (a, a)]
    turns = [(1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0)]
    return np.array([(c * x + d * y, e * x + f * y) for c, d, e, f in turns for x, y in quarter])


OUTLINES: dict[str, Callable[[], list[Array]]] = {
    'circle': lambda: [_regular(48)],
    'ring': lambda: [_regular(48), 0.55 * _regular(48)],
    'square': lambda: [_regular(4)],
    'triangle': lambda: [_regular(3)],
    'star': lambda: [_star()],
    'cross': lambda: [_cross()],
}


# -- painting ------------------------------------------------------------------------------------


def _texture(rng: Generator, height: int, width: int, colour: Array, contrast: float) -> Array:
    """Soft blotches and stripes around a colour."""
    cells = int(rng.integers(3, 9))
    blotches = cv2.resize(
        rng.normal(0, 1, (cells, cells, 3)),
        (int(width), int(height)),
        interpolation=cv2.INTER_CUBIC,
    )
    rows, columns = np.mgrid[0:height, 0:width]
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 25)
    wave = np.sin((columns * np.cos(angle) + rows * np.sin(angle)) * 2 * np.pi / period)
    strength = rng.uniform(0, 0.6)
    return np.clip(colour + contrast * (0.5 * blotches + strength * wave[..., None]), 0, 255)


def _add_clutter(rng: Generator, image: Array) -> None:
    """Lines that belong to no class."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(2, 7))):
        ends = rng.integers(0, [width, height], (2, 2))
        start, stop = (tuple(int(v) for v in end) for end in ends)
        colour = tuple(float(v) for v in rng.uniform(0, 255, 3))
        cv2.line(image, start, stop, colour, int(rng.integers(1, 4)), cv2.LINE_AA)


def _place(
    rng: Generator,
    drawing: Drawing,
    full_areas: list[int],
    ground: Array,
    radii: tuple[float, float],
) -> None:
    """Put one shape on top, unless it would hide another too far."""
    label = int(rng.integers(len(CLASSES)))
    height, width = drawing.image.shape[:2]
    radius = min(height, width) * rng.uniform(*radii)
    centre = rng.uniform([radius * 0.6] * 2, [width - radius * 0.6, height - radius * 0.6])
    turn, squeeze = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.0)
    paint = _texture(rng, height, width, _unlike(rng, ground), contrast=20)
    alpha = _rasterise(OUTLINES[CLASSES[label]](), height, width, centre, radius, turn, squeeze)
    mask = alpha > 0.5
    left = [int((old & ~mask).sum()) for old in drawing.masks]
    covers = any(rest < LEAST_VISIBLE * area for rest, area in zip(left, full_areas))
    if covers or mask.sum() < 40:
        return
    opacity = alpha[..., None] * rng.uniform(0.85, 1.0)
    drawing.image += opacity * (paint - drawing.image)
    drawing.masks = [old & ~mask for old in drawing.masks] + [mask]
    drawing.labels.append(label)
    full_areas.append(int(mask.sum()))


def _unlike(rng: Generator, ground: Array) -> Array:
    """A colour that stands out from the ground, some more and some less."""
    while True:
        colour = rng.uniform(0, 255, 3)
        if np.abs(colour - ground).max() > LEAST_CONTRAST:
            return colour


def _hide_behind_bar(rng: Generator, drawing: Drawing, full_areas: list[int]) -> None:
    """Now and then a bar of no class lies across everything."""
    if rng.random() > 0.4:
        return
    height, width = drawing.image.shape[:2]
    outline = np.array([(-9, -0.05), (9, -0.05), (9, 0.05), (-9, 0.05)])
    centre = rng.uniform([0, 0], [width, height])
    alpha = _rasterise(
        [outline],
        height,
        width,
        centre,
        min(height, width),
        rng.uniform(0, np.pi),
        rng.uniform(0.3, 1),
    )
    mask = alpha > 0.5
    if any((m & ~mask).sum() < LEAST_VISIBLE * a for m, a in zip(drawing.masks, full_areas)):
        return
    paint = _texture(rng, height, width, rng.uniform(0, 255, 3), contrast=25)
    drawing.image += alpha[..., None] * (paint - drawing.image)
    drawing.masks = [old & ~mask for old in drawing.masks]


def _rasterise(
    outlines: list[Array],
    height: int,
    width: int,
    centre: Array,
    radius: float,
    turn: float,
    squeeze: float,
) -> Array:
    """Coverage in [0, 1] of outlines (even-odd) that are squeezed, turned, scaled and moved."""
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    canvas = np.zeros((int(height), int(width)), np.uint8)
    placed = [(points * [1, squeeze] @ rotation.T * radius + centre) for points in outlines]
    fixed = [np.round(points * 2**SUBPIXEL).astype(np.int32) for points in placed]
    cv2.fillPoly(canvas, fixed, 255, cv2.LINE_AA, SUBPIXEL)
    return canvas / 255.0


# -- files ---------------------------------------------------------------------------------------


def _write_split(root: Path, split: str, spec: ShapesSpec, quiet: bool) -> None:
    count = getattr(spec, split)
    coco: dict[str, Any] = dict(
        info=dict(description='mmkd shapes', **asdict(spec)),
        images=[],
        annotations=[],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
    )
    for folder in ('images', 'maps', *(f'classes/{split}/{name}' for name in CLASSES)):
        (root / folder / ('' if folder.startswith('classes') else split)).mkdir(
            parents=True, exist_ok=True
        )
    for index in track(range(count), f'drawing {split}', disable=quiet):
        drawing, name = draw(spec, split, index), f'{index:06d}'
        _write(root / 'images' / split / f'{name}.jpg', drawing.image)
        _write(root / 'maps' / split / f'{name}.png', drawing.class_map())
        coco['images'].append(_image_entry(drawing, f'{name}.jpg', index + 1))
        for entry in _annotations(drawing, index + 1):
            entry['id'] = len(coco['annotations']) + 1
            coco['annotations'].append(entry)
        for place, label, crop in _crops(drawing, spec.crop):
            _write(root / 'classes' / split / CLASSES[label] / f'{name}_{place}.jpg', crop)
    path = root / 'annotations' / f'{split}.json'
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(coco))


def _image_entry(drawing: Drawing, name: str, identity: int) -> dict[str, Any]:
    height, width = drawing.image.shape[:2]
    return dict(id=identity, file_name=name, height=int(height), width=int(width))


def _annotations(drawing: Drawing, image: int) -> Iterator[dict[str, Any]]:
    for label, mask in zip(drawing.labels, drawing.masks):
        code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        yield dict(
            image_id=image,
            category_id=label + 1,
            bbox=[float(value) for value in coco_mask.toBbox(code)],
            area=float(coco_mask.area(code)),
            iscrowd=0,
            segmentation=dict(size=code['size'], counts=code['counts'].decode('ascii')),
        )


def _crops(drawing: Drawing, size: int) -> Iterator[tuple[int, int, Array]]:
    """Square crops around each shape with some ground, for classification."""
    for place, (label, mask) in enumerate(zip(drawing.labels, drawing.masks)):
        rows, columns = np.where(mask)
        centre = (float(columns.min() + columns.max()) / 2, float(rows.min() + rows.max()) / 2)
        side = int(1.3 * max(np.ptp(rows), np.ptp(columns))) + 4
        patch = cv2.getRectSubPix(drawing.image, (side, side), centre)
        yield place, label, cv2.resize(patch, (size, size), interpolation=cv2.INTER_AREA)


def _write(path: Path, image: Array) -> None:
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
