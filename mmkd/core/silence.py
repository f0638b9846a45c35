"""A loss term that has weight and is 0 all the time: it is said, because it trains nothing."""

from __future__ import annotations

import logging
from collections import Counter

from mmengine.logging import print_log

PATIENCE = 50
"""After so many iterations of silence it is said."""


class Silence:
    """Counts for each term the iterations in which it had weight and was 0.

    >>> silence = Silence()
    >>> silence.note('cwd/loss', True)
    >>> silence.note('cwd/loss', False)
    >>> silence.counts['cwd/loss']
    1
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def note(self, term: str, silent: bool) -> None:
        """Count a term that has never been seen to train anything, and warn once."""
        self.counts[term] += silent
        if self.counts[term] == PATIENCE:
            print_log(
                f'{term}: 0 in each of the first {PATIENCE} iterations in which its schedule gives it '
                'weight, so it has trained nothing. Either its images hold nothing that it compares, '
                'or teacher and student agree at its taps whatever they see, as cwd and at do on maps '
                'of a single position (tools/list_taps.py CONFIG prints shapes)',
                'current',
                logging.WARNING,
            )
