"""Images by name, each through a pipeline or with the reason why not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.dataset import Compose

from ..errors import InputError
from .image_folder import images_in


@dataclass(frozen=True)
class Image:
    """One image.

    Attributes:
        name: relative to the root, as a COCO file has it.
        path: where it is.
        id: its number.
    """

    name: str
    path: Path
    id: Any


class ImageList:
    """What a pipeline makes of each image, or the reason why it makes nothing of it.

    Args:
        images: the images.
        pipeline: what is done to each.
    """

    def __init__(self, images: Sequence[Image], pipeline: Sequence[Any]) -> None:
        self.images, self.pipeline = images, Compose(list(pipeline))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image, Any]:
        image = self.images[index]
        entry = dict(img_path=str(image.path), img_id=image.id, instances=[], seg_fields=[])
        try:
            made = self.pipeline(entry)
        except Exception as error:  # of any decoder
            return image, f'{type(error).__name__}: {error}'
        return image, 'nothing is left of it by the pipeline' if made is None else made


def find_images(source: str | Path, root: str | Path | None = None) -> list[Image]:
    """The images of a folder, of a text file with a name on each line, or of a COCO file.

    Args:
        source: a folder, ``*.txt`` or ``*.json``.
        root: where names are relative to; by default the folder, or that of the file.

    >>> find_images('nowhere.txt')
    Traceback (most recent call last):
    ...
    mmkd.errors.InputError: IMAGES nowhere.txt: does not exist
    """
    place = Path(source)
    if not place.exists():
        raise InputError(f'IMAGES {place}: does not exist')
    if place.is_dir():
        base = Path(root or place)
        found = [(str(_relative(path, base)), index) for index, path in enumerate(images_in(place))]
    else:
        base = Path(root or place.parent)
        found = _from_json(place) if place.suffix == '.json' else _from_lines(place)
    names = [name for name, _ in found]
    if not names:
        raise InputError(f'IMAGES {place}: names no image')
    if len({*names}) < len(names) or len({str(i) for _, i in found}) < len(names):
        raise InputError(f'IMAGES {place}: names an image twice')
    return [Image(name, base / name, number) for name, number in found]


def _relative(path: Path, base: Path) -> Path:
    try:
        return path.relative_to(base)
    except ValueError as error:
        raise InputError(f'--root {base}: {path} does not lie in it') from error


def _from_lines(place: Path) -> list[tuple[str, Any]]:
    try:
        lines = place.read_text().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f'IMAGES {place}: no text; needed: a folder, a .txt with a name on each line, or a COCO .json'
        ) from error
    return [(line.strip(), index) for index, line in enumerate(lines) if line.strip()]


def _from_json(place: Path) -> list[tuple[str, Any]]:
    try:
        images = json.loads(place.read_text())['images']
        return [(str(image['file_name']), image['id']) for image in images]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'IMAGES {place}: no COCO file ({type(error).__name__}: {error}); needed: images with file_name '
            'and id'
        ) from error
