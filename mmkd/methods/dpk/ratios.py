"""How much of a hybrid sequence the teacher supplies, level by level and iteration by iteration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor

from ...collectives import gather_maps, joined
from ...core.options import AtLeast, Count, Share, annotations_of, check_options
from ...core.readings import Readings
from ...errors import InputError, nearest, refuse_unknown
from ...losses.cka import FEWEST, cka_of_terms, hsic_terms
from ...losses.sketch import hsic_terms_of_sketches, numbers_for, sketch

Pairs = list[tuple[Tensor, Tensor]]
"""The student's and the teacher's map of each level: [B, C, H, W] each."""


@dataclass
class Reading:
    """The ratio of one level, and what it rests on.

    Attributes:
        ratio: the teacher's share of the tokens.
        cka: the alignment behind it, where there is one.
        samples: the number of images behind the alignment.
    """

    ratio: float
    cka: float | None = None
    samples: int | None = None


class Ratio:
    """A rule for the ratio. It may remember; what it remembers is saved and resumed."""

    floor = True
    """Whether a handful of teacher tokens is always there, however small the ratio."""

    def __call__(self, pairs: Pairs, progress: float, rng: torch.Generator) -> list[Reading]:
        """The ratio of every level."""
        raise NotImplementedError

    def state(self) -> Any:
        """What must be saved."""
        return None

    def resume(self, state: Any) -> None:
        """Take up a saved state."""


class FixedRatio(Ratio):
    """The same ratio always; exactly so, 0 and 1 included.

    >>> FixedRatio(0.5)([(torch.zeros(1), torch.zeros(1))], 0.0, torch.Generator())[0].ratio
    0.5
    """

    floor = False

    def __init__(self, value: Annotated[float, Share()] = 0.5) -> None:
        self.value = float(value)

    def __call__(self, pairs: Pairs, progress: float, rng: torch.Generator) -> list[Reading]:
        """The ratio of every level."""
        return [Reading(self.value) for _ in pairs]


class UniformRatio(Ratio):
    """Drawn anew for every level and iteration, uniformly between two bounds."""

    def __init__(
        self, low: Annotated[float, Share()] = 0.1, high: Annotated[float, Share()] = 0.9
    ) -> None:
        self.low, self.high = low, high

    def __call__(self, pairs: Pairs, progress: float, rng: torch.Generator) -> list[Reading]:
        """The ratio of every level."""
        draws = torch.rand(len(pairs), generator=rng).tolist()
        return [Reading(self.low + (self.high - self.low) * draw) for draw in draws]


class DecayRatio(Ratio):
    """From ``start`` to ``end`` over training: ``linear``, ``exponential`` or ``cosine``.

    >>> level = [(torch.zeros(1), torch.zeros(1))]
    >>> decay = DecayRatio('linear', start=0.9, end=0.1)
    >>> round(decay(level, 0.5, torch.Generator())[0].ratio, 6)
    0.5
    """

    def __init__(
        self,
        shape: str,
        start: Annotated[float, Share()] = 0.9,
        end: Annotated[float, Share()] = 0.1,
    ) -> None:
        self.shape, self.start, self.end = shape, start, end
        if shape == 'exponential' and min(self.start, self.end) == 0:
            raise InputError(
                f'exponential: start={start}, end={end}; needed: both above 0, because '
                'powers never reach it'
            )

    def __call__(self, pairs: Pairs, progress: float, rng: torch.Generator) -> list[Reading]:
        """The ratio of every level."""
        if self.shape == 'exponential':
            value = self.start * (self.end / self.start) ** progress
        else:
            cosine = 0.5 * (1 - math.cos(math.pi * progress))
            way = cosine if self.shape == 'cosine' else progress
            value = self.start + (self.end - self.start) * way
        return [Reading(value) for _ in pairs]


@dataclass
class Memory:
    """What one level remembers: maps of past images, and HSIC terms of past iterations.

    Attributes:
        maps: of the student and the teacher, batch by batch, in short or whole.
        terms: of the last iterations, or one sum in which older ones fade.
        iterations: how many such terms that sum is worth.
        late: the alignment that was on its way from the device when this was saved.
    """

    maps: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    terms: list[Tensor] = field(default_factory=list)
    iterations: float = 0.0
    late: float = math.nan

    def with_past(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The maps of now after the remembered ones."""
        pairs = [*self.maps, pair]
        return joined([s for s, _ in pairs]), joined([t for _, t in pairs])

    def keep(self, pair: tuple[Tensor, Tensor], wanted: int) -> None:
        """Remember the newest maps that bring the next iteration to the wanted number, and no more."""
        batch = len(pair[0])
        self.maps.append(pair)
        while self.maps and sum(len(s) for s, _ in self.maps[1:]) + batch >= wanted:
            self.maps.pop(0)

    def fade_in(self, terms: Tensor, momentum: float) -> Tensor:
        """The sum of all terms, those of k iterations ago times ``momentum`` to the k-th power."""
        total = sum((momentum * past.to(terms.device) for past in self.terms), terms)
        self.terms = [total]
        self.iterations = momentum * self.iterations + 1
        return total


class CKARatio(Ratio):
    """``1 - CKA(F_s, F_t)``: the farther the student is from the teacher, the more is supplied.

    The alignment is that of the images of all ranks, estimated without bias from a sketch of each map
    (:mod:`mmkd.losses.sketch`): that is what ranks tell each other, what is remembered and what is saved.
    Where there are fewer images than ``samples``, those of the last iterations are added with their maps of
    that time. Guards: no alignment (too
    few images yet, a constant map), or one of 0.1 or less, gives ``fallback``; the ratio is never
    below ``low``.

    Args:
        samples: images wanted behind one alignment; 4 at least.
        batches: HSIC terms are averaged over this many iterations (minibatch CKA).
        momentum: HSIC terms are averaged over all iterations, each older one with this factor; 0: not.
        history: whether images of past iterations may help.
        low: the smallest ratio.
        fallback: the ratio without a usable alignment.
        exact: whole maps in place of sketches; ranks then send them in each iteration.
    """

    def __init__(
        self,
        samples: Annotated[int, AtLeast(FEWEST)] = 8,
        batches: Count = 1,
        momentum: Annotated[float, Share()] = 0.0,
        history: bool = True,
        low: Annotated[float, Share()] = 0.1,
        fallback: Annotated[float, Share()] = 0.8,
        exact: bool = False,
    ) -> None:
        if momentum == 1 or (momentum and batches > 1):
            raise InputError(
                f'cka: momentum={momentum}, batches={batches}; needed: a momentum below 1, and one of the two'
            )
        self.samples, self.batches, self.momentum = samples, batches, momentum
        self.history = history
        self.low, self.fallback, self.exact = low, fallback, exact
        self._numbers = 0
        self._memories: list[Memory] = []
        self._alignments = Readings()

    def __call__(self, pairs: Pairs, progress: float, rng: torch.Generator) -> list[Reading]:
        """The ratio of every level; on a GPU that of the iteration before, for which nothing has to wait."""
        self._memories = self._memories or [Memory() for _ in pairs]
        whole = gather_maps([self._short(side) for pair in pairs for side in pair])
        maps = iter(whole)
        found = [
            self._alignment(memory, pair) for memory, pair in zip(self._memories, zip(maps, maps))
        ]
        self._settle(len(whole[0]))
        levels = [str(level) for level in range(len(found))]
        alignments = torch.stack([alignment for alignment, _ in found])
        measured = self._alignments(levels, alignments.clamp(-1, 1))
        return [
            self._reading(measured.get(level, memory.late), images)
            for level, memory, (_, images) in zip(levels, self._memories, found)
        ]

    def state(self) -> Any:
        """The length of sketches, and of each level: maps, terms, and the alignment that is not told yet."""
        late = self._alignments.waiting()
        levels = [
            (memory.maps, memory.terms, memory.iterations, late.get(str(level), math.nan))
            for level, memory in enumerate(self._memories)
        ]
        return self._numbers, levels

    def resume(self, state: Any) -> None:
        """Take them up; what has begun with whole maps, as a list of levels did, goes on with them."""
        self._numbers, levels = (0, state) if isinstance(state, list) else state
        self.exact = self.exact or bool(levels and not self._numbers)
        self._memories = [
            Memory(list(maps), list(terms), *numbers) for maps, terms, *numbers in levels
        ]

    def _short(self, maps: Tensor) -> Tensor:
        """What ranks are told of a map."""
        return maps if self.exact else sketch(maps, self._numbers or numbers_for(self.samples))

    def _settle(self, images: int) -> None:
        """Sketches have the length that suits the first batch of all ranks, once that is known."""
        if self._numbers or self.exact:
            return
        self._numbers = numbers_for(max(images, self.samples))
        if self._numbers != numbers_for(self.samples):  # what is remembered has another length
            for memory in self._memories:
                memory.maps = []

    def _hsic_terms(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (hsic_terms if self.exact else hsic_terms_of_sketches)(student, teacher)

    def _alignment(self, memory: Memory, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        """The alignment with what is remembered, NaN from too few images; and their number."""
        self._refuse_too_few(len(pair[0]))
        device = pair[0].device
        memory.maps = [(s.to(device), t.to(device)) for s, t in memory.maps]
        student, teacher = memory.with_past(pair)
        if self.history:
            memory.keep(pair, self.samples)
        if len(student) < FEWEST:
            return torch.tensor(math.nan, dtype=torch.float64, device=device), len(student)
        if self.momentum:
            total = memory.fade_in(self._hsic_terms(student, teacher), self.momentum)
            return cka_of_terms(total), round(len(student) * memory.iterations)
        terms = [t.to(device) for t in memory.terms] + [self._hsic_terms(student, teacher)]
        memory.terms = terms[1 - self.batches :] if self.batches > 1 else []
        return cka_of_terms(torch.stack(terms).mean(0)), len(student) * len(terms)

    def _refuse_too_few(self, images: int) -> None:
        if not self.history and images < FEWEST:
            raise InputError(
                f'ratio: cka: {images} images in the batch of all ranks, and history=False; the '
                f'alignment needs {FEWEST}. Larger batches, more ranks, history=True, or a ratio '
                "without alignment (ratio=0.5, ratio='linear')"
            )

    def _reading(self, alignment: float, samples: int) -> Reading:
        if not math.isfinite(alignment):
            return Reading(self.fallback, None, samples)
        ratio = self.fallback if alignment <= 0.1 else max(1 - alignment, self.low)
        return Reading(ratio, alignment, samples)


RATIOS = ('cka', 'fixed', 'linear', 'exponential', 'uniform', 'cosine')


def build_ratio(spec: Any) -> Ratio:
    """A ratio from a config: a name, a number (fixed), or ``dict(type=name, ...)``.

    >>> build_ratio(0.3).value
    0.3
    >>> build_ratio(dict(type='cka', samples=16)).samples
    16
    """
    if isinstance(spec, (int, float)) and not isinstance(spec, bool):
        spec = dict(type='fixed', value=spec)
    options = dict(spec) if isinstance(spec, Mapping) else {'type': spec}
    kind = options.pop('type', None)
    if kind not in RATIOS:
        raise InputError(f'unknown strategy {kind!r}; {nearest(str(kind), RATIOS)}')
    classes = {'cka': CKARatio, 'fixed': FixedRatio, 'uniform': UniformRatio}
    build = classes.get(kind, DecayRatio)
    known = annotations_of(build)
    refuse_unknown(kind, options, known.keys() - {'shape'})
    check_options(kind, build, options)
    if 'shape' in known:
        options['shape'] = kind
    return build(**options)
