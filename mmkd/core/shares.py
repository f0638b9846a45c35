"""How strongly a method pulls at the features: measured, and weights that follow it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from ..collectives import mean_over_ranks
from ..errors import InputError
from ..family.taps import flatten
from ..registry import SCHEDULES
from .options import Above, AtLeast, Count, ReadBy
from .schedules import Schedule, build_schedule

SHARE = 0.5
"""The target for methods that name none for the task."""
MEMORY = 0.5
"""How much of what was measured before counts when something new is measured."""
SMALLEST = 1e-30
EVERY = 100
"""Iterations between two measurements of what a method's share is."""
EARLY = (1, 10, 20, 30, 40, 50)
"""Iterations in which it is measured besides: what is wrong is to be seen soon."""
SCALE = 2.0**10
"""Gradients at features in float16 are taken of so many times the loss, as its smallest numbers are 0."""


class Shares:
    """What part of the pull at a method's taps is the method's own: 0 none, 1 all.

    It is ``own / (own + task)``, of the lengths of two gradients at the features that both reach: that of
    the method's weighted losses, and that of the student's own. It takes a part of the backward pass, so it
    is measured in few iterations, and what was measured last holds until then. Nothing is read from
    the device, and nothing of training is changed.

    Args:
        every: iterations between measurements; 0 for none.

    >>> shares, x = Shares(), torch.tensor([3.0, 4.0], requires_grad=True)
    >>> shares.due(['pkd'])
    True
    >>> shares.measure({'loss': x.square().sum()}, {'pkd/loss': 10 * x[0]}, {'pkd': [x]})
    >>> shares.of(['pkd'])
    {'pkd/share': tensor(0.5000)}
    """

    def __init__(self, every: int = EVERY) -> None:
        self.every, self.seen, self.measured = every, 0, 0
        self._last: dict[str, Tensor] = {}
        self._tried: set[str] = set()
        self._failed = False

    def due(self, names: Iterable[str]) -> bool:
        """Count an iteration; whether it is to be measured. A method that begins later is when it does."""
        if not (self.every and torch.is_grad_enabled()):
            return False
        self.seen += 1
        new = not self._tried.issuperset(names)
        return new or self.seen in EARLY or self.seen % self.every == 0

    def measure(
        self,
        task: Mapping[str, Any],
        terms: Mapping[str, Tensor],
        tapped: Mapping[str, Sequence[Tensor]],
    ) -> None:
        """Take up the shares of some methods; all ranks must come here.

        Args:
            task: the student's own losses, as they are trained.
            terms: the methods' losses, weighted, by ``method/term``.
            tapped: the student's features at each method's taps.
        """
        self._tried |= set(tapped)
        self.measured += 1
        whole = total(task)
        compared: list[str] = []
        numbers = torch.full((2 * len(tapped),), math.nan, device=whole.device)
        try:
            if not self._failed:
                numbers, compared = _squares(whole, terms, tapped)
        except RuntimeError as error:  # a network whose backward pass cannot be run in parts
            self._failed = True  # on this rank; others may wait for it
            said = str(error).splitlines()[0]
            print_log(f'gradient shares are not measured: {said}', 'current', logging.WARNING)
        own, pull = mean_over_ranks(numbers).sqrt().unflatten(0, (-1, 2)).unbind(1)
        found = torch.where(own > 0, own / (own + pull), own)
        self._last |= {n: v for n, v in zip(tapped, found) if n in compared}

    def of(self, names: Iterable[str]) -> dict[str, Tensor]:
        """What was measured last of some methods, as it is logged."""
        return {f'{name}/share': self._last[name] for name in names if name in self._last}

    def state(self) -> dict[str, Any]:
        """What is saved with a checkpoint."""
        return dict(seen=self.seen, last=dict(self._last), tried=sorted(self._tried))

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        self.seen, self._last = int(state['seen']), dict(state['last'])
        self._tried = set(state['tried'])


def _squares(
    task: Tensor, terms: Mapping[str, Tensor], tapped: Mapping[str, Sequence[Tensor]]
) -> tuple[Tensor, list[str]]:
    """The squared lengths of each method's and of the task's gradient; the methods that can be compared."""
    features = list({id(t): t for own in tapped.values() for t in own}.values())
    pulls = dict(zip(map(id, features), _gradients(task, features)))
    squares, compared = [], []
    for name, own in tapped.items():
        losses = {k: v for k, v in terms.items() if k.startswith(f'{name}/loss')}
        gradients = _gradients(total(losses), own) if losses else [None] * len(own)
        # what the task does not reach was cloned from what something overwrites
        met = [(g, pulls[id(t)]) for g, t in zip(gradients, own) if pulls[id(t)] is not None]
        squares += [_square([pair[side] for pair in met], task) for side in (0, 1)]
        compared += [name] if met else []
    return torch.stack(squares), compared


def total(losses: Mapping[str, Any]) -> Tensor:
    """The sum of what is trained.

    >>> total({'loss_cls': [torch.ones(()), torch.ones(2)], 'acc': torch.ones(())})
    tensor(3.)
    """
    return torch.stack([t.sum() for n in losses if 'loss' in n for t in flatten(losses[n])]).sum()


@SCHEDULES.register_module()
class GradientShare:
    """A weight for each loss of a method: its gradient at the tapped features is a share of the task's.

    With ``n`` losses each gets ``target / n``. The gradients' norms are measured at the features that the
    method taps in the student (not at parameters: it takes a part of the backward pass only). They are
    measured in each of the ``first`` iterations, in which the weights are set freely, and then in every
    ``every``-th, after which a weight moves half of the way (in logarithms), and only if the share is
    outside of ``low`` to ``high`` times the target. On several ranks the squares are summed over them.

    Args:
        target: the share, or a schedule of it; where that is 0 the method is not run. By default the
            method's own for the task (``shares``).
        every: iterations between measurements.
        first: iterations at the start that are measured.
        low: below so much of the target the weight grows.
        high: above so much of it the weight falls.

    >>> share = GradientShare(0.1)
    >>> share(0.0)
    0.1
    >>> share.learn({'loss': (4.0, 1.0)}, 0.1)  # norms of the task's gradient and of the term's
    >>> share.factors(['loss'])
    {'loss': 0.4}
    """

    def __init__(
        self,
        target: Annotated[Any, ReadBy(build_schedule, 'a share, or a schedule')] | None = None,
        every: Count = 100,
        first: Count = 10,
        low: Annotated[float, AtLeast(0)] = 0.8,
        high: Annotated[float, Above(1)] = 1.25,
    ) -> None:
        if low >= 1:
            raise InputError(f'GradientShare: low={low}; needed: below 1')
        self.target: Schedule | None = None if target is None else build_schedule(target)
        self.every, self.first, self.low, self.high = every, first, low, high
        self.seen = 0
        self._ratios: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def __call__(self, progress: float) -> float:
        """The share that is aimed at; the weights are :meth:`factors`."""
        assert self.target is not None
        return self.target(progress)

    def aim(self, default: float) -> None:
        """Take this share if none was given."""
        if self.target is None:
            self.target = build_schedule(default)

    def advance(self) -> bool:
        """Count an iteration; whether it is to be measured."""
        self.seen += 1
        return self.seen <= self.first or (self.seen - self.first) % self.every == 0

    def learn(self, norms: Mapping[str, tuple[float, float]], target: float) -> None:
        """Take up measured norms, of the task's gradient and of each term's, and move the weights."""
        target = target / max(len(norms), 1)
        for term, (task, own) in norms.items():
            if min(task, own) <= SMALLEST or not math.isfinite(task + own):
                continue  # a batch in which the one or the other gives no gradient tells nothing
            before = self._ratios.get(term, math.log(task / own))
            share = 1 / self.seen if 0 < self.seen <= self.first else 1 - MEMORY
            self._ratios[term] = before + share * (math.log(task / own) - before)
            self._move(term, target * math.exp(self._ratios[term]))

    def _move(self, term: str, wanted: float) -> None:
        own = self._weights.get(term)
        if own is None or self.seen <= self.first:
            self._weights[term] = wanted
        elif not self.low <= own / wanted <= self.high:
            self._weights[term] = math.sqrt(own * wanted)

    def factors(self, terms: Iterable[str]) -> dict[str, float]:
        """The weight of each term; of one that has not been measured yet 0."""
        return {term: self._weights.get(term, 0.0) for term in terms}

    def state(self) -> dict[str, Any]:
        """What is saved with a checkpoint."""
        return dict(seen=self.seen, ratios=dict(self._ratios), weights=dict(self._weights))

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        self.seen = int(state['seen'])
        self._ratios, self._weights = dict(state['ratios']), dict(state['weights'])


def gradient_norms(
    task: Tensor, terms: Mapping[str, Tensor], features: Sequence[Tensor]
) -> dict[str, tuple[float, float]]:
    """The norms of the task's gradient and of each term's, at the features that the term reaches.

    Over all ranks, whose features are parts of one batch; read from the device once.

    >>> x = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> gradient_norms(x.square().sum(), {'loss': 0.5 * x.sum()}, [x])
    {'loss': (10.0, 0.7071067690849304)}
    """
    pulls, squares = _gradients(task, features), []
    for term in terms.values():
        own = _gradients(term, features)
        reached = [pull for pull, pulled in zip(pulls, own) if pulled is not None]
        squares += [_square(reached, task), _square(own, task)]
    if not squares:
        return {}
    norms = mean_over_ranks(torch.stack(squares)).sqrt().tolist()
    return dict(zip(terms, zip(norms[::2], norms[1::2])))


def _gradients(loss: Tensor, features: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not (loss.requires_grad and features):
        return [None] * len(features)
    half = any(feature.dtype == torch.float16 for feature in features)
    scale = SCALE if half else 1.0
    found = torch.autograd.grad(
        loss * scale, list(features), retain_graph=True, allow_unused=True
    )  # fmt: skip
    return [g.float() / scale if half and g is not None else g for g in found]


def _square(gradients: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """The squared length of some gradients together, in single precision."""
    squares = [g.float().square().sum() for g in gradients if g is not None]
    return torch.stack(squares).sum() if squares else like.new_zeros(()).float()
