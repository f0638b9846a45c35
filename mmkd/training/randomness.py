"""States of the random generators of a process, and data workers whose draws depend on no history."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import get_worker_info

State = dict[str, Any]
"""Of all generators of a process, in forms that a checkpoint can hold without pickled code."""


def random_state() -> State:
    """The states of the generators of Python, NumPy, torch and, if there is one, the GPU."""
    kind, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
    state: State = {
        'python': random.getstate(),
        'numpy': (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        'torch': torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: State) -> None:
    """Put every generator where it was.

    >>> before = random_state()
    >>> drawn = (random.random(), np.random.rand(), torch.rand(()).item())
    >>> set_random_state(before)
    >>> drawn == (random.random(), np.random.rand(), torch.rand(()).item())
    True
    """
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state['numpy']
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


def seed_all(*numbers: int) -> None:
    """Seed every generator of the process with a mix of numbers.

    >>> seed_all(0, 7)
    >>> first = np.random.rand()
    >>> seed_all(0, 7)
    >>> np.random.rand() == first
    True
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class Numbered(int):
    """The index of a sample that also says in which iteration it is drawn.

    >>> Numbered.of(3, 100) + 1, Numbered.of(3, 100).iteration
    (4, 100)
    """

    iteration: int

    @classmethod
    def of(cls, index: int, iteration: int) -> Numbered:
        """An index with its iteration."""
        number = cls(index)
        number.iteration = iteration
        return number

    def __reduce__(self) -> tuple[Any, ...]:
        return Numbered.of, (int(self), self.iteration)


def start_worker(worker: int, init: Callable[[int], None] | None, seed: int) -> None:
    """Start a data worker whose samples depend on seed, iteration and index alone.

    By themselves a worker's generators go on from sample to sample, so that what it draws depends on
    what it has drawn since it was started.
    """
    if init is not None:
        init(worker)
    info = get_worker_info()
    assert info is not None
    dataset: Any = info.dataset
    override(dataset, '__getitem__', functools.partial(_draw, seed))


def override(instance: Any, method: str, replacement: Callable[..., Any]) -> None:
    """Let one object have a method of its own, special methods too: ``replacement(inherited, *args)``.

    >>> class Three:
    ...     def __len__(self):
    ...         return 3
    >>> three = Three()
    >>> override(three, '__len__', lambda inherited: 2 * inherited())
    >>> len(three), len(Three())
    (6, 3)
    """
    kind: Any = type(instance)
    inherited = getattr(kind, method)

    def own(self: Any, *args: Any) -> Any:
        return replacement(functools.partial(inherited, self), *args)

    instance.__class__ = type(kind.__name__, (kind,), {method: own})


def _draw(seed: int, inherited: Callable[[Any], Any], index: Any) -> Any:
    """A sample, drawn with a seed of its own."""
    if isinstance(index, Numbered):
        seed_all(seed, index.iteration, int(index))
    return inherited(index)
