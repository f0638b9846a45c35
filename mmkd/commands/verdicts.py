"""Whether an arm of a comparison is better than the student alone: differences by seed, intervals, verdicts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from rich.table import Table
from scipy import stats

LEVEL = 0.95
"""Of all intervals so many hold the true difference, each taken by itself."""

FEWEST = 3
"""With fewer pairs no verdict is given."""
MOST_SEEDS = 1000
"""More are not advised."""

Scores = Mapping[str, Mapping[int, float]]
"""A number of every run, by arm and seed."""


@dataclass(frozen=True)
class Difference:
    """What an arm has more than the student alone, over the seeds that both have.

    Attributes:
        mean: of the differences, with the bounds ``low`` and ``high`` of its interval;
        deviation: theirs; all three are None for a single pair.
        pairs: how many.
    """

    mean: float
    deviation: float | None
    pairs: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """One arm: its scores, its difference to the student alone, what it costs, and what follows."""

    arm: str
    mean: float
    deviation: float | None
    seeds: int
    difference: Difference | None
    seconds_ratio: float | None
    verdict: str
    reason: str


def rows_of(scores: Scores, seconds: Scores, alone: str, smallest: float) -> list[Row]:
    """A row for every arm that has a score.

    Args:
        scores: by arm and seed.
        seconds: that the runs took, by arm and seed.
        alone: the arm that all are compared to.
        smallest: the smallest difference that matters.
    """
    rows = []
    for arm, own in scores.items():
        found = None if arm == alone else difference(own, scores.get(alone, {}))
        word, reason = ('', '') if arm == alone else verdict(found, smallest)
        values = list(own.values())
        spread = statistics.stdev(values) if len(values) > 1 else None
        ratio = _ratio(seconds[arm], seconds.get(alone, {}))
        mean = statistics.fmean(values)
        rows.append(Row(arm, mean, spread, len(values), found, ratio, word, reason))
    return rows


def _ratio(seconds: Mapping[int, float], alone: Mapping[int, float]) -> float | None:
    seeds = seconds.keys() & alone.keys()
    base = sum(alone[seed] for seed in seeds)
    return sum(seconds[seed] for seed in seeds) / base if base else None


def difference(scores: Mapping[int, float], alone: Mapping[int, float]) -> Difference | None:
    """The paired difference with its t-interval; None where no seed is in both.

    >>> difference({0: 3.0, 1: 5.0}, {0: 2.0, 1: 2.0, 2: 9.0}).mean
    2.0
    """
    # rounded, because 0.3 - 0.1 is not 0.2 and a verdict has edges
    values = [round(scores[seed] - alone[seed], 9) for seed in scores if seed in alone]
    if not values:
        return None
    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return Difference(mean, None, 1)
    deviation = statistics.stdev(values)
    half = half_width(deviation, count)
    return Difference(mean, deviation, count, mean - half, mean + half)


def half_width(deviation: float, pairs: int) -> float:
    """Half of the interval of a mean of so many differences, from Student's t.

    >>> round(half_width(1.0, 5), 3)
    1.242
    """
    return float(stats.t.ppf((1 + LEVEL) / 2, pairs - 1)) * deviation / math.sqrt(pairs)


def verdict(found: Difference | None, smallest: float) -> tuple[str, str]:
    """GO, NO-GO or INCONCLUSIVE, and why; no word where there are not two pairs.

    >>> verdict(Difference(1.5, 0.2, 3, 1.0, 2.0), smallest=1.0)[0]
    'GO'
    """
    if found is None or found.low is None or found.high is None:
        return '-', 'no interval: it takes two seeds at least that both arms have'
    if found.pairs < FEWEST:
        return 'INCONCLUSIVE', f'two seeds can agree by chance; {FEWEST} at least for a verdict'
    if found.low > 0 and found.mean >= smallest:
        return 'GO', 'the interval is above 0 and the mean difference large enough to matter'
    if found.high < smallest:
        return 'NO-GO', 'the whole interval is below the smallest difference that matters'
    seeds = seeds_to_decide(found, smallest)
    wanted = f'{seeds} seeds' if seeds else f'not even {MOST_SEEDS} seeds'
    return 'INCONCLUSIVE', f'{wanted} would decide if mean and deviation stay as they are'


def seeds_to_decide(found: Difference, smallest: float) -> int | None:
    """How many pairs give a verdict if mean and deviation of the differences stay; None for too many.

    >>> seeds_to_decide(Difference(1.0, 1.0, 3, -1.48, 3.48), smallest=0.5)
    7
    """
    gap = found.mean if found.mean >= smallest else smallest - found.mean
    counts = range(max(found.pairs + 1, FEWEST), MOST_SEEDS + 1)
    return next((n for n in counts if half_width(found.deviation or 0, n) < gap), None)


# -- shown -----------------------------------------------------------------------------------------

HEADINGS = (
    'arm',
    'mean',
    'deviation',
    'seeds',
    'difference',
    '95 % interval',
    'seconds',
    'verdict',
)


def cells(row: Row, digits: int) -> list[str]:
    """A row in words, under :data:`HEADINGS`.

    >>> cells(Row('alone', 0.25, None, 1, None, 1.0, '', ''), 3)
    ['alone', '0.250', '-', '1', '-', '-', '1.00', '']
    """

    def number(value: float | None, sign: str = '') -> str:
        return '-' if value is None else f'{value:{sign}.{digits}f}'

    found = row.difference
    interval = '-'
    if found is not None and found.low is not None:
        interval = f'{number(found.low, "+")} to {number(found.high, "+")}'
    ratio = '-' if row.seconds_ratio is None else f'{row.seconds_ratio:.2f}'
    scores = [number(row.mean), number(row.deviation), str(row.seeds)]
    return [
        row.arm,
        *scores,
        number(found.mean if found else None, '+'),
        interval,
        ratio,
        row.verdict,
    ]


def digits_for(rows: list[Row]) -> int:
    """Percentages have two digits behind the point, shares of one four."""
    return 2 if any(abs(row.mean) > 1 for row in rows) else 4


def table(rows: list[Row], title: str) -> Table:
    """The rows for a terminal."""
    shown = Table(title=title, title_justify='left')
    for heading in HEADINGS:
        shown.add_column(heading, justify='left' if heading in ('arm', 'verdict') else 'right')
    for row in rows:
        shown.add_row(*cells(row, digits_for(rows)))
    return shown


def markdown(rows: list[Row], title: str, notes: list[str]) -> str:
    """The rows as a table in Markdown, and what is to be said below it."""
    lines = [HEADINGS, ['---'] * len(HEADINGS), *(cells(row, digits_for(rows)) for row in rows)]
    grid = '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)
    return f'{title}\n\n{grid}\n\n' + ''.join(f'- {note}\n' for note in notes)


def notes_of(rows: list[Row]) -> list[str]:
    """Why each verdict is what it is."""
    return [
        f'{row.arm}: {row.reason}'
        if row.verdict == '-'
        else f'{row.arm}: {row.verdict}, {row.reason}'
        for row in rows
        if row.verdict
    ]
