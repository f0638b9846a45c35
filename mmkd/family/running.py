"""Running a model of the OpenMMLab family just far enough to answer some taps."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Size, Tensor, nn

from ..errors import InputError
from .blanks import blank_batch, blank_rois
from .heads import head_kind
from .roi import Rois, drive
from .sizes import sizes_to_try
from .taps import Features, Place, Tap, capture

SECONDS = 60
"""After so long a dry run tries no further size of image."""


def observe(
    model: nn.Module,
    taps: Iterable[Tap],
    inputs: Tensor,
    samples: Any = None,
    *,
    rois: Rois | None = None,
    until: Mapping[Place, int] | None = None,
    copied: Collection[Place] = (),
    owner: str = 'the model',
    heads: bool = True,
) -> Features:
    """Run a model until its taps have answered, and no further when ``until`` says how often.

    A RoI head is driven on the boxes that are given, so that a teacher scores the student's boxes.
    Without ``heads`` features are extracted and that is all. The model's loss is never run.
    """
    places = list(dict.fromkeys(tap.place for tap in taps))
    with capture(model, places, until=until, copied=copied, owner=owner) as features:
        if rois:
            maps = model.extract_feat(inputs)  # type: ignore[operator]
            if any(at.startswith('rpn_head') for at, _ in places):
                model.rpn_head(maps)  # type: ignore[operator]
            drive(model.roi_head, maps, rois)
        elif heads and (first := _first_head(model, [at for at, _ in places])) is not None:
            first.forward(model.extract_feat(inputs))  # type: ignore[operator]
        elif heads:
            model(inputs, samples, mode='tensor')
        else:
            model.extract_feat(inputs)  # type: ignore[operator]
    return features


def _first_head(model: nn.Module, places: Collection[str]) -> nn.Module | None:
    """The dense head, or the first of a segmentor's heads, where all places lie in it or before it.

    What comes behind it is left out. The whole forward of a detector that makes masks from a dense head's
    objects (CondInst, BoxInst) calls that head's loss, and by it the head once more; that of a segmentor that
    refines points (PointRend) fails in mmseg.
    """
    name = 'bbox_head' if head_kind(model) == 'dense' else 'decode_head.0'
    inside = [at for at in places if f'{at}.'.startswith(f'{name}.')]
    others = {at.split('.')[0] for at in places if at not in inside}
    if not inside or not others <= {'backbone', 'neck'}:
        return None
    head = getattr(model, name.split('.')[0], None)
    return head[0] if isinstance(head, nn.ModuleList) else head


@dataclass
class Probe:
    """What a dry run told of some taps."""

    shapes: dict[Tap, list[Size]] = field(default_factory=dict)
    image: int = 0
    counts: dict[Place, int] = field(default_factory=dict)
    overwritten: set[Place] = field(default_factory=set)


def probe(
    model: nn.Module,
    taps: Iterable[Tap],
    owner: str = 'the model',
    sizes: Iterable[int | None] = (),
) -> Probe:
    """Dry-run a model to learn its taps' shapes; nothing of the model changes.

    Also notes how often each place is passed, and which tensors something later overwrites in
    place (those are cloned when they are captured). ``sizes`` of images are tried before others.
    """
    taps = list(taps)
    if not taps:
        return Probe()
    features, image = _dry_run(model, taps, owner, (False, True), sizes)
    shapes = {tap: [_batched(tensor.shape) for tensor in features[tap]] for tap in taps}
    return Probe(shapes, image, features.counts(), features.overwritten())


def _batched(shape: Size) -> Size:
    """The shape of what one image gives; some networks (LeNet) squeeze the axis of a single image away."""
    return Size((1, *shape)) if len(shape) == 1 else shape


def all_taps(model: nn.Module, sizes: Iterable[int | None] = ()) -> list[tuple[str, list[Size]]]:
    """Every place of a model that a forward passes, with the shapes of what it gives there.

    >>> from mmengine.model import BaseModel
    >>> class Net(BaseModel):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    ...     def forward(self, inputs, data_samples=None, mode='tensor'):
    ...         return self.stem(inputs)
    >>> all_taps(Net())
    [('stem', [torch.Size([1, 8, 64, 64])])]
    """
    taps = [Tap(name) for name, _ in model.named_modules() if name]
    return _dry_run(model, taps, 'the model', (True, False), sizes)[0].shapes()


def _dry_run(
    model: nn.Module,
    taps: list[Tap],
    owner: str,
    roads: tuple[bool, bool],
    sizes: Iterable[int | None],
) -> tuple[Features, int]:
    """What passed, and the size of the image.

    Args:
        model: the model.
        taps: what to read.
        owner: the model's name in messages.
        roads: whether heads are run, first and then. A model that begins without them is done as soon as
            its features have answered all taps: some heads run only on samples that a blank image has
            not, and some take gigabytes of them.
        sizes: sizes of images to try first.
    """
    failures: list[str] = []
    until = time.monotonic() + SECONDS
    with _at_rest(model):
        for heads in roads if hasattr(model, 'extract_feat') else (True,):
            for size in sizes_to_try(model, sizes):
                try:
                    features = _blank_run(model, taps, size, owner, heads, driven=not roads[0])
                except InputError:
                    raise
                except Exception as error:  # if nothing fits, all reasons are shown
                    failures.append(f'at {size} px {type(error).__name__}: {error}')
                    if time.monotonic() > until:
                        break
                    continue
                if heads or roads[0] or all(features.passed(tap) for tap in taps):
                    return features, size
                break  # a tap lies in a head
    raise InputError(
        f'{owner} cannot be run on a black image: ' + '; '.join(dict.fromkeys(failures))
    )


def _blank_run(
    model: nn.Module, taps: list[Tap], size: int, owner: str, heads: bool, driven: bool
) -> Features:
    """Run a model on a black image; ``driven``: a RoI head with taps on boxes of ours."""
    inputs, samples = blank_batch(model, size)
    rois = blank_rois(taps, inputs) if heads and driven else None
    return observe(model, taps, inputs, samples, rois=rois, owner=owner, heads=heads)


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """In eval mode and without gradient; afterwards every module is in its own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
