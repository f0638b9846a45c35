"""Weights that follow gradients, so that a method pulls at the features with a share of the task's strength."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from ..collectives import mean_over_ranks
from ..errors import InputError
from ..registry import SCHEDULES
from .options import Above, AtLeast, Count, ReadBy
from .schedules import Schedule, build_schedule

SHARE = 0.5
"""The target for methods that name none for the task."""
MEMORY = 0.5
"""How much of what was measured before counts when something new is measured."""
SMALLEST = 1e-30


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
    if not loss.requires_grad:
        return [None] * len(features)
    return torch.autograd.grad(loss, list(features), retain_graph=True, allow_unused=True)


def _square(gradients: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """The squared length of some gradients together, in single precision."""
    squares = [g.float().square().sum() for g in gradients if g is not None]
    return torch.stack(squares).sum() if squares else like.new_zeros(()).float()
