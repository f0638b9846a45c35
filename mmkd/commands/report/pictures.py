"""Pictures for the page: what the student alone, the distilled one and the teacher find on the same images."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from ...errors import InputError
from ..picture import Compared, caption_of, choose, draw_comparison, judge
from .networks import Data
from .tallies import Tally, objects_of, sure_boxes

SCORE = 0.3
"""Boxes of at least this score are drawn and counted, whichever detector gives them."""
QUALITY = 85
"""Of a JPEG; a photo as PNG is ten times as large."""


def compared_images(
    data: Data, tallies: Mapping[str, Tally], rows: int
) -> tuple[list[Compared], str]:
    """The images on which alone and distilled differ most, both ways in proportion, and the sentence below.

    Args:
        data: the images.
        tallies: what ``alone``, ``distilled`` and ``teacher`` find on them.
        rows: how many are shown.
    """
    if 'alone' not in tallies:
        raise InputError('a training of the student alone is needed (--baseline DIR)')
    images = []
    for place in data.places:
        objects = [one for one in objects_of(data, place) if not one.crowd]
        judged = {
            name: judge(sure_boxes(of.boxes[place], SCORE), objects) for name, of in tallies.items()
        }
        images.append(Compared(data.file(place), objects, judged))
    chosen = choose(images, rows)
    return chosen, caption_of(images, chosen, SCORE)


def drawn(chosen: list[Compared]) -> bytes:
    """The picture of some images, as a JPEG."""
    if not all(image.file for image in chosen):
        raise InputError('the images of this data set are no files')
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, 'picture.png')
        draw_comparison(picture, Path(), chosen, '')  # the page has the sentence
        pixels = cropped(np.asarray(cv2.imread(str(picture))))
    return cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def cropped(pixels: np.ndarray, margin: int = 12) -> np.ndarray:
    """A picture without the white below what is drawn.

    >>> cropped(np.where(np.arange(90) == 5, 0, 255)[:, None, None]).shape
    (18, 1, 1)
    """
    rows = np.flatnonzero((pixels < 255).any((1, 2)))
    return pixels[: rows[-1] + 1 + margin]
