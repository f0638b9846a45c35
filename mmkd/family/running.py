"""Running a model of the OpenMMLab family just far enough to answer some taps."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Size, Tensor, nn

from ..errors import InputError
from .blanks import blank_batch, blank_rois
from .roi import Rois
from .taps import Features, Place, Tap, capture

PROBE_SIZES = (128, 224, 384)
"""Image sizes tried in turn by a dry run; some backbones take one size only."""


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
) -> Features:
    """Run a model until its taps have answered, and no further when ``until`` says how often.

    A RoI head is driven on the boxes that are given, so that a teacher scores the student's boxes.
    The model's loss is never run.
    """
    places = list(dict.fromkeys(tap.place for tap in taps))
    with capture(model, places, until=until, copied=copied, owner=owner) as features:
        if rois:
            maps = model.extract_feat(inputs)  # type: ignore[operator]
            if any(at.startswith('rpn_head') for at, _ in places):
                model.rpn_head(maps)  # type: ignore[operator]
            for stage, boxes in rois.items():
                prefix = () if stage is None else (stage,)
                model.roi_head._bbox_forward(*prefix, maps, boxes)  # type: ignore[union-attr, operator]
        else:
            model(inputs, samples, mode='tensor')
    return features


@dataclass
class Probe:
    """What a dry run told of some taps."""

    shapes: dict[Tap, list[Size]] = field(default_factory=dict)
    image: int = 0
    counts: dict[Place, int] = field(default_factory=dict)
    overwritten: set[Place] = field(default_factory=set)


def probe(model: nn.Module, taps: Iterable[Tap], owner: str = 'the model') -> Probe:
    """Dry-run a model to learn its taps' shapes; nothing of the model changes.

    Also notes how often each place is passed, and which tensors something later overwrites in
    place (those are cloned when they are captured).
    """
    taps = list(taps)
    if not taps:
        return Probe()
    features, image = _dry_run(model, taps, owner, rois=True)
    shapes = {tap: [tensor.shape for tensor in features[tap]] for tap in taps}
    return Probe(shapes, image, features.counts(), features.overwritten())


def all_taps(model: nn.Module) -> list[tuple[str, list[Size]]]:
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
    return _dry_run(model, taps, 'the model', rois=False)[0].shapes()


def _dry_run(model: nn.Module, taps: list[Tap], owner: str, rois: bool) -> tuple[Features, int]:
    """What passed, and the size of the image."""
    failures = []
    for size in PROBE_SIZES:
        try:
            return _dry_run_at(model, taps, owner, size, rois), size
        except InputError:
            raise
        except Exception as error:  # any one size may be unfit; if none fits, all reasons are shown
            failures.append(f'at {size} px {type(error).__name__}: {error}')
    raise InputError(f'{owner} cannot be run on a black image: ' + '; '.join(failures))


def _dry_run_at(model: nn.Module, taps: list[Tap], owner: str, size: int, rois: bool) -> Features:
    inputs, samples = blank_batch(model, size)
    boxes = blank_rois(taps, inputs) if rois else None
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            return observe(model, taps, inputs, samples, rois=boxes, owner=owner)
    finally:
        for module, training in modes.items():
            module.training = training
