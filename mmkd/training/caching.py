"""Whether images come again: what a teacher's cache asks of the data of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.runner import BaseLoop, Runner
from torch import Tensor

from ..core.distiller import untouched_randomness
from ..core.teacher import Teacher
from ..errors import InputError
from ..family.taps import flatten

RANDOM = (
    'Random', 'Mosaic', 'MixUp', 'Mixup', 'CutMix', 'CutOut', 'Cutout', 'CopyPaste', 'PhotoMetric',
    'Jitter', 'AutoAug', 'RandAug', 'Albu', 'Lighting', 'Erasing', 'Noise', 'MultiImageMix',
)  # fmt: skip
"""In the names of transforms and data sets that draw or mix, whatever else tells it."""
FIXED = ('BatchFixedSizePad',)
"""Augmentations of a batch that draw nothing, and make all images one size."""
LOOKED_AT = 8
"""Images whose sizes are compared."""
DRAWN = 3
"""Images that are made several times."""
TIMES = 4


def refuse_passing_images(runner: Runner, teachers: Mapping[str, Teacher]) -> None:
    """Stop if a teacher's answers are to be kept, and the images that it will see hardly come again."""
    cached = [teacher for teacher in teachers.values() if teacher.cache is not None]
    if not cached or not isinstance(runner._train_loop, BaseLoop):
        return
    loader = runner.train_dataloader
    preprocessor = getattr(runner.model, 'module', runner.model).data_preprocessor
    cure = 'leave it out of the config'
    reason = (
        random_augmentation(preprocessor)
        or random_transform(loader.dataset)
        or other_each_time(loader.dataset)
    )
    if reason is None and batch_size(loader) > 1 and not _padded(preprocessor):
        reason = several_sizes(loader.dataset)
        cure = 'give them one size (Resize with keep_ratio=False, or BatchFixedSizePad)'
    if reason is not None:
        raise InputError(f'{cached[0].owner}: cache: {reason}; {cure}, or leave cache out')


def random_augmentation(preprocessor: Any) -> str | None:
    """What a data preprocessor does at random to a batch; None if nothing."""
    kinds = [kind for kind in _augmentations(preprocessor) if kind not in FIXED]
    return f'{kinds[0]} of the data_preprocessor changes batches at random' if kinds else None


def random_transform(dataset: Any) -> str | None:
    """The first transform of a data set, or of one that it wraps, that draws or mixes images.

    mmcv's own mark of methods that draw, a probability, or the name tells.

    >>> class RandomFlip:
    ...     prob = 0.5
    >>> class Data:
    ...     pipeline = [RandomFlip()]
    >>> random_transform(Data())
    'RandomFlip of the train_dataloader is random (prob=0.5): an image that was met hardly comes again'
    """
    for part in parts_of(dataset):
        why = _drawn(part)
        if why is not None:
            return (
                f'{type(part).__name__} of the train_dataloader is random ({why}): an image that was met '
                'hardly comes again'
            )
    return None


def other_each_time(dataset: Any) -> str | None:
    """A data set that gives another image when it is asked for one again; None if it does not.

    What training will draw stays as it is.
    """
    with untouched_randomness():
        for index in _spread(len(dataset), DRAWN):
            first, *others = (_images(dataset[index]) for _ in range(TIMES))
            if not all(torch.equal(a, b) for other in others for a, b in zip(first, other)):
                names = dict.fromkeys(type(part).__name__ for part in parts_of(dataset))
                return (
                    f'image {index} of the train_dataloader is another each time it is read: one of '
                    f'{", ".join(names)} is random'
                )
    return None


def several_sizes(dataset: Any) -> str | None:
    """Images of several sizes, which are padded to the largest of their batch; None if all have one."""
    with untouched_randomness():
        looked_at = [_images(dataset[index]) for index in _spread(len(dataset), LOOKED_AT)]
    sizes = {tuple(image.shape[-2:]) for images in looked_at for image in images[:1]}
    if len(sizes) < 2:
        return None
    shown = ', '.join(f'{height}x{width}' for height, width in sorted(sizes)[:3])
    return (
        f'images have several sizes ({shown}) and are padded to the largest of their batch, which is another '
        'in each epoch'
    )


def parts_of(holder: Any, depth: int = 0) -> Iterator[Any]:
    """A data set, those it wraps, and the transforms of all, those within transforms included."""
    if isinstance(holder, (list, tuple)):
        inner = list(holder)
    elif isinstance(holder, Mapping):
        inner = list(holder.values())
    else:
        yield holder
        names = ('pipeline', 'transforms', 'pipelines', 'branch_pipelines', 'dataset', 'datasets')
        inner = [getattr(holder, name) for name in names if hasattr(holder, name)]
    for part in inner if depth < 20 else ():
        if part is not None and not isinstance(part, (str, bytes, int, float)):
            yield from parts_of(part, depth + 1)


def _drawn(part: Any) -> str | None:
    name, chance = type(part).__name__, getattr(part, 'prob', None)
    if isinstance(chance, (int, float)) and chance == 0:
        return None
    if isinstance(chance, (int, float)) and chance < 1:
        return f'prob={chance}'
    if methods := getattr(part, '_methods_with_randomness', None):
        return f'{methods[0].strip("_")} is drawn'
    return 'by its name' if any(word in name for word in RANDOM) else None


def _augmentations(preprocessor: Any) -> list[str]:
    inner = getattr(preprocessor, 'data_preprocessor', preprocessor)
    found = getattr(inner, 'batch_augments', None)
    if found is None:
        return []
    found = getattr(found, 'augments', found)
    return [type(one).__name__ for one in found]


def batch_size(loader: Any) -> int:
    """Images in a batch; a batch sampler of its own leaves the loader without that number."""
    return loader.batch_size or getattr(loader.batch_sampler, 'batch_size', 2)


def _padded(preprocessor: Any) -> bool:
    return any(kind in FIXED for kind in _augmentations(preprocessor))


def _spread(length: int, count: int) -> list[int]:
    """Some places over a range.

    >>> _spread(100, 3), _spread(2, 3)
    ([0, 33, 66], [0, 1])
    """
    count = min(length, count)
    return [length * index // count for index in range(count)]


def _images(sample: Any) -> list[Tensor]:
    return flatten(sample['inputs'] if isinstance(sample, Mapping) else sample)
