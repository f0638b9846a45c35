"""Curves of what trainings log: which lines go into which chart, and the charts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import InputError
from ..arms import ALONE
from ..sections import section_of
from .runs import Entry, Training

SECTIONS = {
    'score': ('Validation', 'The metric that decides; the dashed line is the teacher.'),
    'metrics': ('Other metrics', 'All else that validation gives; tap a name to show or hide it.'),
    'task': ('Losses of the task', 'The sum and the terms of the student itself.'),
    'terms': ('Losses of the methods', 'Each with its weight, as it is trained.'),
    'weights': ('Weights', "What a method's losses are multiplied by."),
    'shares': (
        'Gradient shares',
        "Of a method at its tapped features, of its own and the task's gradient together.",
    ),
    'ratio': ('Ratio', 'How much of a level is taken from the teacher.'),
    'cka': (
        'Alignment',
        'CKA of student and teacher on each level; 1 is the same up to a rotation.',
    ),
    'samples': ('Samples', 'Behind each measured alignment.'),
    'statistics': ('Statistics of the methods', ''),
    'rates': ('Learning rates', ''),
    'gradient': ('Gradient norm', "Of the student's parameters, before it is clipped."),
    'cost': ('Seconds and memory', 'Per iteration; data_time is the wait for data.'),
    'other': ('Other', ''),
}
"""Charts in order: heading and what is to be said of it."""

COUNTERS = {'step', 'iter', 'epoch', 'eta'}
COLOURS = (
    '#3b82f6', '#f97316', '#10b981', '#ef4444', '#a855f7', '#06b6d4', '#eab308', '#ec4899', '#84cc16',
    '#6366f1',
)  # fmt: skip
"""Told apart on white and on black."""
DASHES = ('solid', 'dashed', 'dotted', 'dotdash')
SHOWN = 6
"""So many names of a chart are shown at first."""


@dataclass
class Line:
    """One curve.

    Attributes:
        name: the key in the log.
        run: which training.
        arm: of that training.
        x: steps.
        y: values.
    """

    name: str
    run: str
    arm: str
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)


def lines_of(trainings: Sequence[Training], metric: str | None) -> dict[str, list[Line]]:
    """All that was logged, as lines by chart, in the order of :data:`SECTIONS`."""
    found: dict[str, list[Line]] = {section: [] for section in SECTIONS}
    for training in trainings:
        run = run_name(training, trainings)
        for name, line in _curves(training.train, training, run).items():
            found[section_of(name)].append(line)
        for name, line in _curves(training.val, training, run).items():
            # COCO says -1 where there is nothing of a size
            if name not in ('time', 'data_time') and set(line.y) != {-1}:
                found['score' if name == metric else 'metrics'].append(line)
    return {section: lines for section, lines in found.items() if lines}


def arms_of(some: Iterable[Training | Line]) -> list[str]:
    """The arms of trainings or lines, the student alone last."""
    return sorted(dict.fromkeys(one.arm for one in some), key=lambda arm: arm == ALONE)


def run_name(training: Training, trainings: Sequence[Training]) -> str:
    """What a training is called beside others: its arm, and its seed if several have the arm."""
    alike = [other for other in trainings if other.arm == training.arm]
    if len(alike) == 1:
        return training.arm
    number = alike.index(training) + 1
    return f'{training.arm}, ' + (
        f'run {number}' if training.seed is None else f'seed {training.seed}'
    )


def _curves(entries: Iterable[Entry], training: Training, run: str) -> dict[str, Line]:
    lines: dict[str, Line] = {}
    for entry in entries:
        for name, value in entry.items():
            if name in COUNTERS or isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            line = lines.setdefault(name, Line(name, run, training.arm))
            line.x.append(entry['step'])
            line.y.append(value)
    return lines


# -- drawing ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chart:
    """A drawn chart: where it goes, and the names that can be toggled, with colour and whether shown."""

    section: str
    div: str
    names: list[tuple[str, str, bool]]


def draw(
    sections: Mapping[str, list[Line]], teacher: float | None, by_epoch: bool
) -> tuple[list[Chart], str, str]:
    """The charts, the script that fills them, and the library."""
    figure, embed, resources = _library()
    arms = arms_of(line for lines in sections.values() for line in lines)
    figures, names = {}, {}
    for section, lines in sections.items():
        validated = section in ('score', 'metrics')
        plot = _plot(figure, 'epoch' if validated and by_epoch else 'iteration', section)
        names[section] = _draw_lines(plot, section, lines, arms)
        if section == 'score' and teacher is not None:
            _draw_teacher(plot, lines, teacher)
        figures[section] = plot
    script, divs = embed.components(figures) if figures else ('', {})
    charts = [Chart(section, divs[section], names[section]) for section in figures]
    return (
        charts,
        script,
        resources(mode='inline', components=['bokeh']).render_js() if figures else '',
    )


def _library() -> tuple[Any, Any, Any]:
    try:
        from bokeh import embed
        from bokeh.plotting import figure
        from bokeh.resources import Resources
    except ImportError as error:
        raise InputError(
            "mmkd report: bokeh is not installed; pip install 'mmkd[report]', or pip install bokeh"
        ) from error
    return figure, embed, Resources


def _plot(figure: Any, unit: str, section: str) -> Any:
    """An empty chart that a finger can scroll past."""
    plot = figure(
        name=section,
        height=280,
        sizing_mode='stretch_width',
        tools='hover,xbox_zoom,reset,save',
        active_drag=None,
        x_axis_label=unit,
        tooltips=[('', '$name'), (unit, '@x{0,0}'), ('value', '@y{0.0000a}')],
        toolbar_location='above',
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
    )
    plot.toolbar.logo = None
    plot.grid.grid_line_color = '#888888'
    plot.grid.grid_line_alpha = 0.2
    return plot


def _draw_lines(
    plot: Any, section: str, lines: Sequence[Line], arms: Sequence[str]
) -> list[tuple[str, str, bool]]:
    """Colours tell names, or arms where there is one name; dashes the arms."""
    names = list(dict.fromkeys(line.name for line in lines))
    by_arm = len(names) == 1
    shown = {name: section != 'metrics' or order < SHOWN for order, name in enumerate(names)}
    colours = {n: COLOURS[i % len(COLOURS)] for i, n in enumerate(arms if by_arm else names)}
    for line in lines:
        drawn = plot.line(
            line.x,
            line.y,
            name=f'{line.name}, {line.run}',
            color=colours[line.arm if by_arm else line.name],
            line_width=2,
            line_dash='solid' if by_arm else DASHES[arms.index(line.arm) % len(DASHES)],
            tags=[line.name, line.arm],
            visible=shown[line.name],
        )
        drawn.data_source.name = json.dumps([section, line.run, line.name])
        if len(line.x) < 40:
            dots = plot.scatter('x', 'y', source=drawn.data_source, size=5, visible=drawn.visible)
            dots.name, dots.tags = drawn.name, drawn.tags
            dots.glyph.fill_color = drawn.glyph.line_color
            dots.glyph.line_color = None
    return [(n, colours.get(n, COLOURS[0]), shown[n]) for n in ([] if by_arm else names)]


def _draw_teacher(plot: Any, lines: Sequence[Line], value: float) -> None:
    ends = [0, max(step for line in lines for step in line.x)]
    plot.line(
        ends, [value, value], name='teacher', tags=[lines[0].name, 'teacher'],
        color='#888888', line_dash='dashed', line_width=2,
    )  # fmt: skip
