"""Images of a folder, without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset

from ..errors import InputError
from ..registry import DATASETS

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm')


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """All images of a folder and of the folders in it, for pipelines of mmdet, mmpretrain and mmseg.

    Each has empty lists in the places of labels, which steps that shift or crop labels pass over.

    Args:
        folder: the folder.
        pipeline: what is done to an image.
        metainfo: the class names that a student keeps in its checkpoint.
    """

    def __init__(
        self, folder: str | Path, pipeline: list[Any], metainfo: dict[str, Any] | None = None
    ) -> None:
        self.folder = Path(folder)
        super().__init__(pipeline=pipeline, metainfo=metainfo)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One entry for each image, in the order of the names."""
        return [
            dict(img_path=str(path), img_id=index, instances=[], seg_fields=[])
            for index, path in enumerate(images_in(self.folder))
        ]


def images_in(folder: str | Path) -> list[Path]:
    """All images in a folder and the folders in it; one at least.

    >>> images_in('nowhere')
    Traceback (most recent call last):
    ...
    mmkd.errors.InputError: images without labels: nowhere: no such folder
    """
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f'images without labels: {place}: no such folder')
    found = sorted(path for path in place.rglob('*') if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(
            f'images without labels: {place}: no image in it; needed: files that end in '
            f'{", ".join(SUFFIXES)}'
        )
    return found
