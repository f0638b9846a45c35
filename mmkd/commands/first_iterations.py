"""What only a running training tells: its memory, what the teacher's forward takes, what each term is."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from mmengine.runner import Runner

from ..training.method_optimizers import methods_of, teachers_of

ENOUGH = 10
"""After so many iterations it is said."""
GIB = 2**30


class Clock:
    """Times a function whose first argument is a batch, without waiting for a device.

    The first call is left out: forms of the teacher are tried in it.

    >>> clock = Clock(lambda images: images)
    >>> for _ in range(3):
    ...     _ = clock(torch.zeros(2, 3, 4, 4))
    >>> clock.seconds_per_image() < 1
    True
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._marks: list[tuple[Any, Any, int]] = []

    def __call__(self, images: Any, *others: Any, **options: Any) -> Any:
        """What the function gives."""
        begin = mark(images.device)
        found = self._function(images, *others, **options)
        self._marks.append((begin, mark(images.device), len(images)))
        return found

    def seconds_per_image(self) -> float | None:
        """The median; the host waits for the last call. None if there were not two."""
        spans = [between(begin, end) / images for begin, end, images in self._marks[1:]]
        return statistics.median(spans) if spans else None


def mark(device: torch.device) -> Any:
    """A point of time, on a GPU of the GPU."""
    if device.type != 'cuda':
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(begin: Any, end: Any) -> float:
    """Seconds between two marks.

    >>> between(1.0, 3.5)
    2.5
    """
    if isinstance(begin, float):
        return end - begin
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def peak_memory() -> tuple[int, str]:
    """The most bytes that were held so far, and by what."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated(), 'tensors of the GPU'
    try:
        import resource
    except ImportError:  # Windows
        return 0, 'the process'
    # kilobytes, but bytes on a Mac
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, 'the process'


def measured(runner: Runner, clocks: dict[str, Clock]) -> dict[str, Any]:
    """What the first iterations have told.

    Args:
        runner: in training.
        clocks: around each teacher's ``observe``.
    """
    peak, holder = peak_memory()
    found = dict(iterations=runner.iter + 1, memory=peak, holder=holder)
    found['teachers'] = {
        name: dict(
            form=form_of(teacher),
            seconds=clocks[name].seconds_per_image() if name in clocks else None,
        )
        for name, teacher in teachers_of(runner).items()
    }
    logged = runner.message_hub.log_scalars
    found['terms'] = {
        key.removeprefix('train/'): float(history.mean(ENOUGH))
        for key, history in logged.items()
        if key.split('/')[1:2] and key.split('/')[1] in methods_of(runner)
        and ('loss' in key or key.endswith('/share'))
    }  # fmt: skip
    return found


def form_of(guide: Any) -> str:
    """The form in which a teacher runs, in words."""
    return f'runs in the form {guide.form}' if guide.settled else 'has not run yet'


def rows_of(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What is shown of it, in words.

    >>> for row in rows_of(dict(iterations=10, memory=3 * 2**30, holder='the process', terms={'pkd/loss': 2.5,
    ...                         'pkd/share': 0.25}, teachers=dict(teacher=dict(form='fp32', seconds=0.004)))):
    ...     print(row)
    ('memory', 'measured in the first 10 iterations: 3.00 GiB at most, of the process')
    ('teacher', 'fp32, 4.00 ms / image')
    ('pkd', 'loss 2.5, 25.0 % of the gradient at its taps')
    """
    rows = []
    if found['memory']:
        what = f'{found["memory"] / GIB:.2f} GiB at most, of {found["holder"]}'
        rows.append(('memory', f'measured in the first {found["iterations"]} iterations: {what}'))
    for name, guide in found['teachers'].items():
        cost = '' if guide['seconds'] is None else f', {1e3 * guide["seconds"]:.2f} ms / image'
        rows.append((name, guide['form'] + cost))
    parts: dict[str, list[str]] = {}
    for key, value in found['terms'].items():
        method, _, own = key.partition('/')
        said = f'{100 * value:.1f} % of the gradient at its taps'
        parts.setdefault(method, []).append(said if own == 'share' else f'{own} {value:.4g}')
    return rows + [(method, ', '.join(said)) for method, said in parts.items()]
