"""Maps of student and teacher on the same images, and how alike all their stages are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import ConfigDict
from torch import Tensor, nn

from ...core.engine import STUDENT, side_of
from ...core.levels import levels_of
from ...core.listening import listens_to
from ...core.method import FeatureMethod
from ...core.step import Side, Step
from ...core.teacher import Teacher
from ...errors import InputError
from ...family.running import observe, probe
from ...family.stages import stage_taps, task_of
from ...family.taps import Features, Tap
from ...losses.cka import FEWEST, cka_of_terms, gram, hsic
from .networks import Data, Networks

IMAGES = 32
"""So many images are behind an alignment, if the data set has them, in batches of eight."""
BATCH = 8
LARGEST = 112
"""Pixels of a drawn map's longer side."""


class AsTapped(FeatureMethod):
    """Maps as they are, where no method compares any."""

    adapts = False

    def default_taps(self, student: nn.Module) -> list[Tap]:
        """Of detectors the neck, else every stage."""
        usual = super().default_taps(student)
        return usual if usual == [Tap('neck')] else stage_taps(student)


@dataclass(frozen=True)
class Level:
    """One level of one image.

    Attributes:
        name: where the student was tapped.
        student: the picture of its map [H, W, 3].
        teacher: that of the teacher's.
        gap: that of their difference, in the same colours.
        correlation: the mean of Pearson's r over channels; None where channels differ.
    """

    name: str
    student: np.ndarray
    teacher: np.ndarray
    gap: np.ndarray
    correlation: float | None


@dataclass(frozen=True)
class Alignment:
    """Linear CKA between stages.

    Attributes:
        of: whose stages the rows are.
        rows: stages of a student.
        columns: stages of the teacher.
        values: [rows, columns].
    """

    of: str
    rows: list[str]
    columns: list[str]
    values: np.ndarray


@dataclass
class Watched:
    """A network and the taps at which it is looked at."""

    model: nn.Module | Teacher
    taps: list[Tap]
    copied: Any = ()

    def __call__(self, inputs: Tensor, samples: Any) -> Features:
        """What passes at the taps."""
        if isinstance(self.model, Teacher):
            return self.model.observe(inputs, samples, self.taps)
        return observe(self.model, self.taps, inputs, samples, copied=self.copied, owner=STUDENT)


# -- maps ------------------------------------------------------------------------------------------


@torch.no_grad()
def maps_of(networks: Networks, data: Data, places: Sequence[int]) -> list[tuple[Any, list[Level]]]:
    """Some images, and their maps level by level."""
    method, student, teacher = comparing(networks)
    names = levels_of(student, method.level_taps[0])
    found = []
    for raw in data.batches(places, 1):
        inputs, samples = prepared(networks.distilled, raw)
        ours = watched(networks.distilled, method.student_taps)(inputs, samples)
        theirs = Watched(teacher, method.teacher_taps)(inputs, samples)
        step = Step(inputs, samples, 1.0, ours, theirs, {})
        pairs = method.pairs(step) or method.raw_pairs(step)
        levels = [
            level(words(what), *pair)
            for (what, _), pair in zip(names, pairs)
            if pair[1].shape[-2:].numel() > 1
        ]
        found.append((picture_of(raw['inputs'][0]), levels))
    if not any(levels for _, levels in found):
        raise InputError('what is compared has a single position')
    return found


def comparing(networks: Networks) -> tuple[FeatureMethod, Side, Teacher]:
    """The method that compares maps, else what one would compare; the student, and the teacher it hears."""
    if networks.distillation is None or networks.teacher is None:
        raise InputError(networks.missing or 'no teacher is listened to')
    own, method, teacher = networks.distillation, None, networks.teacher
    for name, some in own.methods.items():
        heard = listens_to(name, some, own.teachers)
        if isinstance(some, FeatureMethod) and heard is not None:
            method, teacher = some, own.teachers[heard]
            break
    return _with_sides(method, networks.distilled, teacher)


def _with_sides(
    method: FeatureMethod | None, student: nn.Module, teacher: Teacher
) -> tuple[FeatureMethod, Side, Teacher]:
    """Probed as for training; without a method the maps as they are."""
    found = AsTapped() if method is None else method
    if method is None:
        found.plan(student, teacher.model)
    seen = probe(student, found.student_taps, STUDENT)
    side = Side(student, ConfigDict(), seen.shapes, STUDENT, seen.image)
    teacher.probe(found.teacher_taps, [seen.image])
    if method is None:
        found.paired_levels(side, side_of(teacher))
    return found, side, teacher


def watched(model: nn.Module, taps: Sequence[Tap]) -> Watched:
    """A student at some taps; what it overwrites there is cloned."""
    return Watched(model, list(taps), probe(model, taps, STUDENT).overwritten)


def prepared(model: nn.Module, raw: Mapping[str, Any]) -> tuple[Tensor, Any]:
    """A raw batch as the student sees it."""
    raw = of_one_size(raw) if task_of(model) == 'segmentation' else raw
    data = model.data_preprocessor(raw, False)  # type: ignore[operator]
    return data['inputs'], data.get('data_samples')


def of_one_size(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A raw batch with all images in the size of the first: segmentors pad none that they predict."""
    size = raw['inputs'][0].shape[-2:]
    images = []
    for image, sample in zip(raw['inputs'], raw['data_samples']):
        images.append(nn.functional.interpolate(image[None].float(), size)[0].to(image.dtype))
        sample.set_metainfo(dict(img_shape=tuple(size)))
    return {**raw, 'inputs': images}


def level(name: str, student: Tensor, teacher: Tensor) -> Level:
    """Both maps of a level and their difference, each channel standardised.

    What is drawn at a place is the mean over channels of the absolute value. The colours of all three end at
    the largest value of the teacher's map, so that a difference can be held against what it is of.
    """
    ours, theirs = (standardised(maps[0].float()) for maps in (student, teacher))
    alike = ours.shape == theirs.shape
    first, second = (maps.abs().mean(0) for maps in (ours, theirs))
    gap = (ours - theirs).abs().mean(0) if alike else (resized(first, second) - second).abs()
    largest = second.max().clamp(min=1e-6)
    drawn = [coloured((maps / largest).cpu().numpy()) for maps in (first, second, gap)]
    correlation = float((ours * theirs).mean()) if alike else None
    return Level(name, drawn[0], drawn[1], drawn[2], correlation)


def standardised(maps: Tensor) -> Tensor:
    """Each channel of a map [C, H, W] with mean 0 and deviation 1; constant ones are 0.

    >>> standardised(torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]])).tolist()
    [[[-1.0, 1.0]], [[0.0, 0.0]]]
    """
    centred = maps - maps.mean((1, 2), keepdim=True)
    return centred / centred.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-6)


def resized(maps: Tensor, like: Tensor) -> Tensor:
    """A map [H, W] at the size of another."""
    return nn.functional.interpolate(maps[None, None], like.shape, mode='bilinear')[0, 0]


def coloured(values: np.ndarray) -> np.ndarray:
    """Values from 0 to 1 as colours, no larger than is needed."""
    scale = min(1.0, LARGEST / max(values.shape))
    size = [max(1, round(side * scale)) for side in reversed(values.shape)]
    small = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return cv2.applyColorMap((255 * small.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_VIRIDIS)


def picture_of(inputs: Tensor) -> np.ndarray:
    """An image as the pipeline gives it, in BGR, no larger than twice a map."""
    pixels = inputs.permute(1, 2, 0).cpu().numpy()
    pixels = np.repeat(pixels[..., :1], 3, 2) if pixels.shape[2] < 3 else pixels[..., :3]
    scale = min(1.0, 2 * LARGEST / max(pixels.shape[:2]))
    size = [max(1, round(side * scale)) for side in reversed(pixels.shape[:2])]
    return cv2.resize(np.ascontiguousarray(pixels).astype(np.uint8), size)


def words(what: str) -> str:
    """How a level is called where there is little room.

    >>> words("tap 'neck' level 2"), words("tap 'backbone.layer3' level 0")
    ('neck 2', 'layer3')
    """
    at, number = what.split("'")[1], what.rpartition(' ')[2]
    short = at.removeprefix('backbone.')
    return short if short != at and number == '0' else f'{short} {number}'


# -- alignment -------------------------------------------------------------------------------------


@torch.no_grad()
def alignments(networks: Networks, data: Data) -> tuple[list[Alignment], int]:
    """How alike every stage of each student is to every stage of the teacher, and over how many images."""
    if networks.teacher is None:
        raise InputError(networks.missing or 'no teacher is listened to')
    batches = batched(data.places[:: max(1, len(data.places) // IMAGES)][:IMAGES])
    students = {} if networks.alone is None else dict(alone=networks.alone)
    students['distilled'] = networks.distilled
    parts = {name: watched(model, places_of(model)) for name, model in students.items()}
    teacher = networks.teacher
    image = probe(networks.distilled, parts['distilled'].taps, STUDENT).image
    parts['teacher'] = Watched(teacher, places_of(teacher.model))
    teacher.probe(parts['teacher'].taps, [image])
    sums: dict[str, Tensor] = {}
    names: dict[str, list[str]] = {}
    for places in batches:
        (raw,) = data.batches(places, len(places))
        inputs, samples = prepared(networks.distilled, raw)
        grams = {name: grams_of(part, part(inputs, samples)) for name, part in parts.items()}
        for name in students:
            terms = terms_of(list(grams[name].values()), list(grams['teacher'].values()))
            sums[name] = sums[name] + terms if name in sums else terms
        names = {name: list(own) for name, own in grams.items()}
    return [
        Alignment(name, names[name], names['teacher'], cka_of_terms(total).numpy())
        for name, total in sums.items()
    ], sum(map(len, batches))


def batched(places: Sequence[int]) -> list[list[int]]:
    """Batches of eight; a last one that is too small for the unbiased CKA is left out.

    >>> [len(batch) for batch in batched(range(19))]
    [8, 8]
    """
    found = [list(places[i : i + BATCH]) for i in range(0, len(places), BATCH)]
    found = [batch for batch in found if len(batch) >= FEWEST]
    if not found:
        raise InputError(f'{len(places)} images; the unbiased CKA needs {FEWEST}')
    return found


def places_of(model: nn.Module) -> list[Tap]:
    """The stages of the backbone, and of a detector the neck's levels."""
    neck = getattr(model, 'neck', None)
    return [*stage_taps(model), *([Tap('neck')] if isinstance(neck, nn.Module) else [])]


def grams_of(part: Watched, features: Features) -> dict[str, Tensor]:
    """The kernel of every level, by its name."""
    found = {}
    for tap in part.taps:
        for number, tensor in enumerate(features[tap]):
            found[words(f'tap {tap.at!r} level {number}')] = gram(tensor.float()).cpu()
    return found


def terms_of(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """The HSIC of each pair, and of both with themselves: [3, rows, columns]."""
    own, other = ([hsic(k, k) for k in kernels] for kernels in (ours, theirs))
    rows = [
        torch.stack([torch.stack([hsic(k, t), a, b]) for t, b in zip(theirs, other)], 1)
        for k, a in zip(ours, own)
    ]
    return torch.stack(rows, 1)
