"""The page: what the numbers say, in HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from html import escape

from ...version import __version__
from ..arms import ALONE
from ..summary import shown
from ..verdicts import HEADINGS, LEVEL, Row, cells, digits_for, notes_of
from .charts import COLOURS, DASHES, SECTIONS, Chart, arms_of
from .looks import Looks
from .markup import card, said, table
from .numbers import Change, Numbers, seconds_per_iteration
from .runs import Training
from .style import CSS, SCRIPT

ORDER = (0, 1, 4, 5, 7, 2, 3, 6)
"""Columns of the verdict: on a narrow screen the difference is seen first."""


@dataclass
class Page:
    """What a page is made of.

    Attributes:
        trainings: all of them.
        numbers: the verdict.
        charts: drawn.
        script: that fills the charts.
        library: that draws them.
        looks: what is shown of networks.
    """

    trainings: Sequence[Training]
    numbers: Numbers
    charts: Sequence[Chart] = field(default_factory=list)
    script: str = ''
    library: str = ''
    looks: Looks = field(default_factory=Looks)

    def html(self) -> str:
        """The whole page."""
        parts = [
            self._head(),
            _worse(self.numbers),
            self.looks.classes,
            _all_changes(self.numbers),
            *self.looks.others,
            self._arms(),
            f'<div class="charts">{"".join(map(_chart, self.charts))}</div>',
            _runs(self.trainings),
            _configs(self.trainings),
        ]
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<title>{escape(headline(self.numbers, self.trainings))}</title><style>{CSS}</style>'
            f'{self.library}</head><body><main>{"".join(parts)}</main>{self.script}'
            f'<script>{SCRIPT if self.charts else ""}</script></body></html>\n'
        )

    def _head(self) -> str:
        states = dict.fromkeys(training.state for training in self.trainings)
        chips = ' '.join(f'<span class="state {state}">{state}</span>' for state in states)
        stopped = ''.join(map(_stopped, self.trainings))
        unit = 'epoch' if self.trainings[0].by_epoch else 'iteration'
        body = (
            _verdict(self.numbers, unit)
            if self.numbers.rows
            else '<p>Nothing is validated yet.</p>'
        )
        return (
            f'<header>{chips}<h1>{escape(headline(self.numbers, self.trainings))}</h1>{stopped}</header>'
            f'<section class="card">{body}</section>'
        )

    def _arms(self) -> str:
        arms = arms_of(self.trainings)
        if len(arms) < 2 or not self.charts:
            return ''
        buttons = (
            _button('arms', a, a, COLOURS[i % len(COLOURS)], True) for i, a in enumerate(arms)
        )
        return (
            f'<div class="names">{"".join(buttons)}</div><p class="dim">In charts of many names these are '
            f'drawn {", ".join(_dashes(arms))}.</p>'
        )  # fmt: skip


def headline(numbers: Numbers, trainings: Sequence[Training]) -> str:
    """The verdict in a sentence."""
    rows = [row for row in numbers.rows if row.arm != ALONE]
    alone = next((row for row in numbers.rows if row.arm == ALONE), None)
    if alone is None or not rows:
        shown = ', '.join(dict.fromkeys(training.arm for training in trainings))
        if not numbers.rows:
            return f'{shown}: {trainings[0].progress}'
        said = (f'{row.arm} {row.mean:.{digits_for(numbers.rows)}f}' for row in numbers.rows)
        return f'{numbers.metric}: {", ".join(said)}'
    best = max(rows, key=lambda row: row.mean)
    digits = digits_for(numbers.rows)
    change = best.mean - alone.mean if best.difference is None else best.difference.mean
    word = (
        'the same as'
        if change == 0
        else f'{abs(change):.{digits}f} {"above" if change > 0 else "below"}'
    )
    return f'{best.arm}: {numbers.metric} {best.mean:.{digits}f}, {word} the student alone'


def _verdict(numbers: Numbers, unit: str) -> str:
    """Alone, distilled, teacher, and how sure the difference is."""
    digits = digits_for(numbers.rows)
    body = [_verdict_row(row, digits) for row in numbers.rows]
    if numbers.metric is not None and numbers.metric in numbers.teacher:
        value = f'{numbers.teacher[numbers.metric]:.{digits}f}'
        body.append(f'<tr><td>teacher</td><td>{value}</td>{"<td>-</td>" * (len(ORDER) - 2)}</tr>')
    heads = [*HEADINGS[:-2], 's / iteration, of alone', 'verdict']
    told = notes_of(numbers.rows)
    if all(row.arm != ALONE for row in numbers.rows):
        told = ['nothing to compare with: --baseline DIR names a training of the student alone']
    notes = ''.join(f'<li>{escape(note)}</li>' for note in told)
    return (
        f'<h2>{escape(str(numbers.metric))}</h2><p class="dim">At {unit} {numbers.step}, the last that all '
        "have validated; differences are taken seed by seed, with the interval of Student's t "
        f'({LEVEL:.0%}).</p>{table([heads[i] for i in ORDER], body)}<ul>{notes}</ul>'
    )


def _verdict_row(row: Row, digits: int) -> str:
    shown = cells(row, digits)
    good = {'GO': ' class="good"', 'NO-GO': ' class="bad"'}.get(row.verdict, '')
    marked = {len(shown) - 1: good}
    return (
        f'<tr>{"".join(f"<td{marked.get(i, str())}>{escape(shown[i])}</td>" for i in ORDER)}</tr>'
    )


def _worse(numbers: Numbers) -> str:
    """What became worse is said before all that became better."""
    if not numbers.changes:
        return ''
    worse = [change for change in numbers.changes if change.gain < 0]
    if not worse:
        return card('What became worse', '<p>Nothing of what validation measures.</p>')
    return card('What became worse', _changes(worse))


def _all_changes(numbers: Numbers) -> str:
    better = [change for change in reversed(numbers.changes) if change.gain >= 0]
    return card('What became better, or stayed', _changes(better)) if better else ''


def _changes(changes: Sequence[Change]) -> str:
    several = len({change.arm for change in changes}) > 1
    body = []
    for change in changes:
        digits = 2 if abs(change.alone) > 1 else 4
        found, colour = (
            change.difference,
            'good' if change.gain > 0 else 'bad' if change.gain < 0 else '',
        )
        interval = '-'
        if found is not None and found.low is not None:
            interval = f'{found.low:+.{digits}f} to {found.high:+.{digits}f}'
        teacher = '-' if change.teacher is None else f'{change.teacher:.{digits}f}'
        name = f'{change.metric}, {change.arm}' if several else change.metric
        texts = [interval, f'{change.alone:.{digits}f}', f'{change.mean:.{digits}f}', teacher]
        body.append(
            f'<tr><td>{escape(name)}</td><td class="{colour}">{change.gain:+.{digits}f}</td>'
            + ''.join(f'<td>{text}</td>' for text in texts)
            + '</tr>'
        )
    heads = ['metric', 'change', f'{LEVEL:.0%} interval', 'alone', 'distilled', 'teacher']
    return table(heads, body)


def _chart(chart: Chart) -> str:
    title, said = SECTIONS[chart.section]
    buttons = (
        _button('names', f'{chart.section} {name}', name, colour, shown)
        for name, colour, shown in chart.names
    )
    names = f'<div class="names">{"".join(buttons)}</div>' if chart.names else ''
    return f'<section class="card"><h2>{title}</h2><p class="dim">{said}</p>{names}{chart.div}</section>'


def _button(group: str, key: str, name: str, colour: str, shown: bool) -> str:
    return (
        f'<button data-set="{group}" data-key="{escape(key)}" aria-pressed="{str(shown).lower()}">'
        f'<i style="background:{colour}"></i>{escape(name)}</button>'
    )


def _dashes(arms: Sequence[str]) -> list[str]:
    return [f'{DASHES[i % len(DASHES)]} ({escape(arm)})' for i, arm in enumerate(arms)]


def _stopped(training: Training) -> str:
    if training.state != 'stopped':
        return ''
    why = f': {training.error}' if training.error else '; its log says no more'
    where = f'{training.folder.name} stopped at {training.progress}{why}'
    return f'<p class="bad">{escape(where)}</p>'


def _runs(trainings: Iterable[Training]) -> str:
    """One line for each training: where, how far, how long."""
    body = []
    for t in trainings:
        seconds = seconds_per_iteration(t)
        took = str(timedelta(seconds=round(t.seconds)))
        seed = '-' if t.seed is None else str(t.seed)
        texts = [seed, t.progress, f'{seconds:.3f}' if seconds else '-', took]
        body.append(
            f'<tr><td>{escape(str(t.folder))}</td><td class="text">{escape(t.arm)}</td>'
            f'<td class="text"><span class="state {t.state}">{t.state}</span></td>'
            + ''.join(f'<td>{escape(text)}</td>' for text in texts)
            + '</tr>'
        )
    heads = ['work dir', 'arm', 'state', 'seed', 'progress', 's / iteration', 'time']
    written = f'Written {datetime.now():%Y-%m-%d %H:%M} by mmkd {__version__}.'
    return card('Runs', table(heads, body, texts=3) + said(written))


def _configs(trainings: Sequence[Training]) -> str:
    """What was trained: command, versions, and the config that was dumped."""
    parts = []
    for training in {training.arm: training for training in reversed(trainings)}.values():
        command = training.summary.get('command')
        versions = training.summary.get('versions') or {}
        text = getattr(training.config, 'pretty_text', '') or 'no config was dumped'
        told = f'<p><code>{escape(command)}</code></p>' if command else ''
        if 'student' in training.summary:
            told += f'<pre>{escape(shown(dict(training.summary), terminal=False))}</pre>'
        if versions:
            told += said(', '.join(f'{k} {v}' for k, v in versions.items()))
        parts.append(
            f'<details><summary>{escape(training.arm)}: config</summary>{told}<pre>{escape(text)}</pre>'
            '</details>'
        )
    return card('What was trained', ''.join(reversed(parts)))
