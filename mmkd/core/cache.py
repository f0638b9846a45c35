"""A teacher's answers kept on disk: images that come again are answered without running it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Size, Tensor

from ..errors import InputError
from ..family.roi import in_roi_head
from ..family.taps import Features, Tap, flatten, mapped
from ..files.store import Store
from ..files.writing import refuse_unwritable

LIMIT = 20 * 2**30
"""Bytes that may lie in a cache by default."""
APART = 1e-3
"""A relative error above which an answer is taken to depend on the other images of its batch."""
Ask = Callable[[Tensor, Any], Features]
"""Runs the teacher on images and samples."""


class Cache:
    """Answers by what the teacher is given: the pixels of an image and the shape of its batch.

    Pixels say all of image, transform, normalisation and padding, so that no answer is ever another's. What
    else an answer depends on (weights, config, form, taps, version of torch) is in the name of its folder.
    The batch must be the first axis of whatever is tapped, and each image's answer its own: the first
    batch, on which the teacher always runs, tells.

    Args:
        folder: where answers are kept; several trainings may share it.
        limit: the bytes that may lie there.
        identity: of the teacher.
        owner: how messages call the teacher.
    """

    def __init__(self, folder: str | Path, limit: int, identity: str, owner: str) -> None:
        self.owner = f'{owner}: cache={folder}'
        refuse_unwritable(folder, f'{owner}: cache')
        self.identity = f'{identity} torch {torch.__version__}'
        self.store = Store(Path(folder).expanduser(), limit, self.owner)
        self._layouts: dict[tuple[str, Size], list[tuple[Tap, Any]]] = {}
        self._said = False

    def answer(
        self, images: Tensor, samples: Any, taps: Sequence[Tap], form: object, ask: Ask
    ) -> Features:
        """What the teacher says of a batch; it is asked only where an image is not known.

        Args:
            images: as the teacher is given them.
            samples: the batch's data samples.
            taps: what is read.
            form: the form in which the teacher runs.
            ask: runs it.
        """
        places = {
            place: Tap(place[0], source=place[1]) for place in sorted({t.place for t in taps})
        }
        folder = _short(f'{self.identity} {form} {list(places)} {images.device.type}')
        names = [f'{folder}/{name[:2]}/{name}' for name in _names(images, samples)]
        layout = self._layouts.get((folder, images.shape))
        found = layout and self._read(names, layout, images.device)
        if found:
            self._say()
            return found
        answers = ask(images, samples)
        if layout is None:
            self._check(images, samples, answers, list(places.values()), ask)
            layout = [(tap, mapped(answers.calls(tap), _empty)) for tap in places.values()]
            self._layouts[folder, images.shape] = layout
        self._write(names, [t.cpu() for tap, _ in layout for t in flatten(answers.calls(tap))])
        return answers

    def _read(
        self, names: list[str], layout: list[tuple[Tap, Any]], device: torch.device
    ) -> Features | None:
        """A batch put together from its images; None unless all are there."""
        size = sum(_bytes(t[:1]) for t in flatten([nest for _, nest in layout]))
        kept = []
        for name in names:
            content = self.store.get(name)
            if content is None or len(content) != size:
                return None
            kept.append(content)
        nests = [
            (tap, mapped(nest, lambda t: torch.empty_like(t, device='cpu'))) for tap, nest in layout
        ]
        for row, content in enumerate(kept):
            _fill(flatten([nest for _, nest in nests]), row, content)
        found = Features(self.owner)
        for tap, nest in nests:
            for call in mapped(nest, lambda t: t.to(device, non_blocking=True)):
                found.add(tap.place, call)
        return found

    def _write(self, names: list[str], tensors: list[Tensor]) -> None:
        for row, name in enumerate(names):
            if self.store.full:
                return
            parts = (t[row : row + 1].contiguous().flatten().view(torch.uint8) for t in tensors)
            self.store.put(name, b''.join(part.numpy().tobytes() for part in parts))

    def _check(
        self, images: Tensor, samples: Any, answers: Features, taps: list[Tap], ask: Ask
    ) -> None:
        """Stop unless each image's answer is its own, whatever else is in its batch."""
        wrong = [
            (tap.at, tuple(tensor.shape))
            for tap in taps
            for tensor in flatten(answers.calls(tap))
            if tensor.dim() == 0 or len(tensor) != len(images)
        ]
        if wrong:
            at, shape = wrong[0]
            raise InputError(
                f'{self.owner}: what passes at {at!r} has shape {shape}, and its first axis is not the '
                f'{len(images)} images of the batch; leave cache out'
            )
        if len(images) > 1:
            self._check_alone(images, samples, answers, taps, ask)

    def _check_alone(
        self, images: Tensor, samples: Any, answers: Features, taps: list[Tap], ask: Ask
    ) -> None:
        """Ask once more about the first image, at another place and among others."""
        moved = images.roll(1, 0)
        others = -moved
        others[1] = moved[1]
        second = ask(others, samples and [samples[-1], *samples[:-1]])
        for tap in taps:
            pairs = zip(flatten(answers.calls(tap)), flatten(second.calls(tap)))
            if any(not _near(before[0], after[1]) for before, after in pairs):
                raise InputError(
                    f'{self.owner}: what passes at {tap.at!r} for an image depends on the other images of the '
                    'batch, on its place in it, or on chance; leave cache out'
                )

    def _say(self) -> None:
        if not self._said:
            self._said = True
            print_log(f'{self.owner}: answers batches without running the teacher', 'current')


def refuse_uncachable_taps(owner: str, taps: Sequence[Tap]) -> None:
    """Stop if what a teacher is asked for is not of the images alone.

    >>> refuse_uncachable_taps('the teacher', [Tap('roi_head.bbox_head')])
    Traceback (most recent call last):
    ...
    mmkd.errors.InputError: the teacher: cache: 'roi_head.bbox_head' is asked about the student's boxes, which \
are others in every step; leave cache out
    """
    boxes = [tap.at for tap in taps if in_roi_head(tap)]
    if boxes:
        raise InputError(
            f"{owner}: cache: {boxes[0]!r} is asked about the student's boxes, which are others in every "
            'step; leave cache out'
        )


def _names(images: Tensor, samples: Any) -> list[str]:
    """One for each image: its pixels, the shape of the batch, and where in it the image lies."""
    names = []
    for index, image in enumerate(images.cpu().contiguous()):
        meta: Any = getattr(samples[index], 'metainfo', {}) if samples else {}
        sizes = [meta.get(key) for key in ('img_shape', 'batch_input_shape', 'pad_shape')]
        digest = blake2b(f'{tuple(images.shape)} {images.dtype} {sizes}'.encode(), digest_size=16)
        digest.update(image.flatten().view(torch.uint8).numpy())
        names.append(digest.hexdigest())
    return names


def _short(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _empty(tensor: Tensor) -> Tensor:
    """Shape, order in memory and number format."""
    return torch.empty_like(tensor, device='meta')


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _fill(tensors: list[Tensor], row: int, content: memoryview) -> None:
    """Put one image's bytes into its row of each tensor."""
    start = 0
    for tensor in tensors:
        part = tensor[row]
        if part.numel():
            kept = torch.frombuffer(content, dtype=part.dtype, count=part.numel(), offset=start)
            part.copy_(kept.view(part.shape))
        start += _bytes(part)


def _near(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    if not ours.is_floating_point():
        return torch.equal(ours, theirs)
    ours, theirs = ours.float(), theirs.float()
    return bool((ours - theirs).norm() <= APART * theirs.norm())
