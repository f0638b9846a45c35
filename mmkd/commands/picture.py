"""A picture of detectors side by side: images on which two of them differ most, and their AP below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

ROWS = 6
LEAST_OVERLAP = 0.5
"""A box is right if its class is and its overlap with an object, which no surer box has, is this."""

COLUMNS = dict(truth='truth', alone='student alone', distilled='distilled', teacher='teacher')
DETECTORS = ('alone', 'distilled', 'teacher')
GREEN, RED, YELLOW = '#12a150', '#e5173f', '#ffd400'
WIDTH, PANEL, TABLE = 9.6, 2.5, 2.6
"""Inches: the picture's width, the height of a row of panels and of the table."""


@dataclass(frozen=True)
class Box:
    """A box in pixels, of an object or of a detector.

    Attributes:
        name: its class.
        place: left, top, width, height.
        score: None for an object.
        area: of an object, where it is not that of the box.
        crowd: whether it is none that must be found.
    """

    name: str
    place: tuple[float, float, float, float]
    score: float | None = None
    area: float | None = None
    crowd: bool = False


@dataclass
class Judged:
    """What a detector found on one image."""

    right: list[Box] = field(default_factory=list)
    wrong: list[Box] = field(default_factory=list)
    missed: list[Box] = field(default_factory=list)

    @property
    def f1(self) -> float:
        """Two times the right boxes over all boxes and objects.

        >>> box = Box('ring', (0, 0, 1, 1))
        >>> Judged(right=[box], wrong=[box, box], missed=[box]).f1
        0.4
        """
        every = 2 * len(self.right) + len(self.wrong) + len(self.missed)
        return 2 * len(self.right) / every if every else 1.0


@dataclass
class Compared:
    """One image: its objects, and what each detector found.

    Attributes:
        file: the image.
        detectors: ``alone``, ``distilled``, ``teacher``.
    """

    file: str
    truth: list[Box]
    detectors: dict[str, Judged]

    @property
    def gain(self) -> float:
        """By how much the distilled student is better than the student alone."""
        return self.detectors['distilled'].f1 - self.detectors['alone'].f1


def compare_images(
    coco: Mapping[str, Any],
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    score: float,
    rows: int = ROWS,
) -> tuple[list[Compared], str]:
    """The images to show, and a sentence that says how they were chosen.

    Args:
        coco: images, annotations and categories.
        found: the boxes of each detector, as COCO's results.
        score: boxes of less are left out, whichever detector they are of.
        rows: how many images.
    """
    names = {category['id']: category['name'] for category in coco['categories']}
    truth = _by_image(coco['annotations'], names)
    boxes = {
        detector: _by_image([box for box in results if box['score'] >= score], names)
        for detector, results in found.items()
    }
    images = []
    for image in coco['images']:
        objects = truth.get(image['id'], [])
        judged = {d: judge(of.get(image['id'], []), objects) for d, of in boxes.items()}
        images.append(Compared(image['file_name'], objects, judged))
    chosen = choose(images, rows)
    return chosen, caption_of(images, chosen, score)


def judge(boxes: Sequence[Box], objects: Sequence[Box]) -> Judged:
    """Which boxes are right, the surest first, which are wrong, and which objects are missed.

    >>> ring = Box('ring', (0, 0, 10, 10))
    >>> found = judge([Box('ring', (1, 0, 10, 10), 0.9), Box('star', (0, 0, 10, 10), 0.8)], [ring])
    >>> len(found.right), len(found.wrong), len(found.missed)
    (1, 1, 0)
    """
    result, left = Judged(), list(objects)
    for box in sorted(boxes, key=lambda box: -(box.score or 0.0)):
        alike = [other for other in left if other.name == box.name]
        best = max(alike, key=lambda other: overlap(box, other), default=None)
        if best is None or overlap(box, best) < LEAST_OVERLAP:
            result.wrong.append(box)
        else:
            result.right.append(box)
            left.remove(best)
    result.missed = left
    return result


def overlap(one: Box, other: Box) -> float:
    """Intersection over union.

    >>> overlap(Box('a', (0, 0, 2, 2)), Box('a', (1, 0, 2, 2)))
    0.3333333333333333
    """
    (x, y, width, height), (left, top, wide, high) = one.place, other.place
    across = min(x + width, left + wide) - max(x, left)
    down = min(y + height, top + high) - max(y, top)
    shared = max(across, 0.0) * max(down, 0.0)
    return shared / (width * height + wide * high - shared)


def choose(images: Sequence[Compared], rows: int = ROWS) -> list[Compared]:
    """Images of the greatest differences, for and against, as often as each occurs among all."""
    better, worse = _sides(images)
    if not better and not worse:
        return list(images[:rows])
    share = round(rows * len(better) / (len(better) + len(worse)))
    return [*better[:share], *worse[: rows - share]]


def _sides(images: Sequence[Compared]) -> tuple[list[Compared], list[Compared]]:
    """The images on which the distilled student is better, and worse.

    The greatest differences come first, of equal ones those with more objects.
    """
    order = sorted(images, key=lambda image: (-abs(image.gain), -len(image.truth)))
    return [i for i in order if i.gain > 0], [i for i in order if i.gain < 0]


def caption_of(images: Sequence[Compared], chosen: Sequence[Compared], score: float) -> str:
    """How images were chosen, and how the detectors do on all of them."""
    every, shown = ([len(side) for side in _sides(some)] for some in (images, chosen))
    found = [d for d in DETECTORS if images and d in images[0].detectors]
    overall = {d: pooled(image.detectors[d] for image in images).f1 for d in found}
    scores = ', '.join(f'{COLUMNS[detector]} {f1:.2f}' for detector, f1 in overall.items())
    return (
        f'Boxes of score {score} and more; F1 at IoU {LEAST_OVERLAP} over all {len(images)} images: {scores}.\n'
        f'The distilled student is better on {every[0]} images, the student alone on {every[1]}; shown '
        f'are {shown[0]} of the first\nand {shown[1]} of the second, in that proportion, those of the '
        'greatest difference.'
    )


def pooled(found: Iterable[Judged]) -> Judged:
    """What a detector found on many images, as if they were one.

    >>> ring = Box('ring', (0, 0, 1, 1))
    >>> pooled([Judged(right=[ring]), Judged(missed=[ring, ring])]).f1
    0.5
    """
    result = Judged()
    for judged in found:
        result.right += judged.right
        result.wrong += judged.wrong
        result.missed += judged.missed
    return result


def _by_image(
    entries: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> dict[int, list[Box]]:
    """Annotations or results, image by image."""
    boxes: dict[int, list[Box]] = {}
    for entry in entries:
        box = Box(names[entry['category_id']], tuple(entry['bbox']), entry.get('score'))
        boxes.setdefault(entry['image_id'], []).append(box)
    return boxes


# -- drawing ---------------------------------------------------------------------------------------


def draw_comparison(
    picture: Path,
    images: Path,
    chosen: Sequence[Compared],
    caption: str,
    table: Sequence[tuple[str, float, float, float]] = (),
) -> None:
    """Draw a row of panels for each image, and the table below if there is one.

    Args:
        picture: the PNG to write.
        images: the folder of the images.
        chosen: what to draw.
        caption: the sentence below the panels.
        table: rows of a name and the AP alone, distilled and of the teacher, all classes first.
    """
    below = TABLE if table else 0.1
    columns = [name for name in COLUMNS if name == 'truth' or name in chosen[0].detectors]
    height = PANEL * len(chosen) + below + 1.65
    figure = Figure(figsize=(WIDTH, height), dpi=110, facecolor='white')
    top, bottom = 1 - 0.45 / height, (below + 1.2) / height
    grid = figure.add_gridspec(
        len(chosen),
        len(columns),
        left=0.04,
        right=0.99,
        top=top,
        bottom=bottom,
        wspace=0.04,
        hspace=0.12,
    )
    for row, image in enumerate(chosen):
        pixels = np.asarray(cv2.imread(str(images / image.file)))[..., ::-1]
        for column, detector in enumerate(columns):
            axes = figure.add_subplot(grid[row, column])
            _panel(axes, pixels, image, detector)
            if row == 0:
                axes.set_title(_title(detector, table), fontsize=11, fontweight='bold')
    legend = bottom - 0.5 / height
    _legend(figure, legend)
    figure.text(0.04, legend - 0.06 / height, caption, fontsize=8.5, va='top')
    if table:
        _table(figure.add_axes((0.04, 0.1 / height, 0.95, (TABLE - 0.1) / height)), table)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)


def _title(detector: str, table: Sequence[tuple[str, float, float, float]]) -> str:
    every = dict(zip(DETECTORS, table[0][1:])) if table else {}
    return COLUMNS[detector] + (f'  AP {every[detector]:.3f}' if detector in every else '')


def _panel(axes: Axes, pixels: np.ndarray, image: Compared, detector: str) -> None:
    axes.imshow(pixels, interpolation='bilinear')
    axes.set_xticks([])
    axes.set_yticks([])
    if detector == 'truth':
        side = (
            'distilled better' if image.gain > 0 else 'alone better' if image.gain < 0 else 'equal'
        )
        axes.set_ylabel(side, fontsize=9)
        _boxes(axes, {'white': image.truth}, len(pixels))
        return
    judged = image.detectors[detector]
    _boxes(axes, {YELLOW: judged.missed, RED: judged.wrong, GREEN: judged.right}, len(pixels))
    counts = [len(boxes) for boxes in (judged.right, judged.wrong, judged.missed)]
    axes.set_xlabel('{} right, {} wrong, {} missed'.format(*counts), fontsize=8.5, labelpad=2)


def _boxes(axes: Axes, boxes: Mapping[str, Sequence[Box]], size: int) -> None:
    """Boxes by colour, the last on top, and their names, of which the last have the first choice."""
    taken: list[tuple[float, float]] = []
    for order, (colour, some) in enumerate(reversed([*boxes.items()])):
        for box in some:
            left, top, width, height = box.place
            style = '--' if colour == YELLOW else '-'
            edge = Rectangle((left, top), width, height, fill=False, lw=1.8, ls=style, ec=colour)
            edge.set_path_effects([withStroke(linewidth=3.2, foreground='black', alpha=0.55)])
            edge.set_zorder(3 - order / 10)
            axes.add_patch(edge)
            if colour != YELLOW:
                _name(axes, box, colour, label_place(box, size, taken))


def label_place(box: Box, size: int, taken: list[tuple[float, float]]) -> tuple[float, float]:
    """Where a box's name begins: above the box, or at the first free line along its left edge.

    >>> taken = []
    >>> box = Box('ring', (10, 20, 40, 40))
    >>> label_place(box, 128, taken), label_place(box, 128, taken)
    ((10, 20), (10, 60))
    """
    left, top, _, height = box.place
    line, wide = size / 12, size / 2.8
    first, last = max(top, line), min(top + height, size)
    rows = [first, last, *(first + n * line for n in (1, 2, 3)), last - line]
    free = [
        (left, row)
        for row in rows
        if all(abs(row - y) > 0.99 * line or abs(left - x) >= wide for x, y in taken)
    ]
    place = (free or [(left, rows[0])])[0]
    taken.append(place)
    return place


def _name(axes: Axes, box: Box, colour: str, place: tuple[float, float]) -> None:
    text = box.name if box.score is None else f'{box.name} {box.score:.2f}'
    ink = 'black' if colour == 'white' else 'white'
    back = dict(facecolor=colour, edgecolor='none', pad=0.8, alpha=0.9)
    drawn = axes.text(*place, text, fontsize=7, color=ink, va='bottom', bbox=back, clip_on=True)
    drawn.set_zorder(4)


def _legend(figure: Figure, height: float) -> None:
    keys = [
        Rectangle((0, 0), 1, 1, fill=False, lw=1.8, ls=style, ec=colour)
        for style, colour in (('-', GREEN), ('-', RED), ('--', YELLOW))
    ]
    names = ['right', 'wrong class or place, or found twice', 'missed']
    figure.legend(
        keys,
        names,
        loc='lower center',
        bbox_to_anchor=(0.5, height),
        ncols=3,
        fontsize=8.5,
        frameon=False,
    )


def _table(axes: Axes, rows: Sequence[tuple[str, float, float, float]]) -> None:
    """AP by class as in the terminal; the gain coloured."""
    axes.set_axis_off()
    cells = [
        [
            name,
            *(f'{value:.3f}' for value in (alone, distilled)),
            f'{distilled - alone:+.3f}',
            f'{teacher:.3f}',
        ]
        for name, alone, distilled, teacher in rows
    ]
    heads = ['AP', 'student alone', 'distilled', 'gain', 'teacher']
    drawn = axes.table(cells, colLabels=heads, loc='center', cellLoc='center', bbox=Bbox.unit())
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(9.5)
    for (row, column), cell in drawn.get_celld().items():
        cell.set_edgecolor('#cccccc')
        if row <= 1:
            cell.set_text_props(fontweight='bold')
            cell.set_facecolor('#eeeeee' if row == 0 else 'white')
        if column == 3 and row:
            cell.get_text().set_color(GREEN if cells[row - 1][3].startswith('+') else RED)
