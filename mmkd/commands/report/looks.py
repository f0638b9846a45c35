"""What the page shows of networks: classes, pictures, confusion, feature maps, alignment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import cv2
import numpy as np

from ...errors import InputError, reason_of
from ...family.building import load_config
from ...family.stages import task_of
from .features import Alignment, Level, alignments, maps_of
from .markup import card, image, matrix, said, table
from .networks import (
    Data,
    Networks,
    chosen_trainings,
    config_file,
    load_networks,
    predictions,
    validation_data,
)
from .numbers import Numbers
from .pictures import SCORE, compared_images, drawn
from .runs import Training
from .tallies import BACKGROUND, Tally, tally

CLASSES, PICTURES, CONFUSION = (
    'Classes and sizes',
    'Where they differ',
    'Which classes are confused',
)
MAPS, ALIGNMENT = 'Feature maps', 'Alignment of stages'
MOST_CLASSES = 16
"""A matrix of more classes is no picture any more; then its greatest changes are named alone."""
MOST_ROWS = 40
SHOWN = 3
"""So many images have their feature maps drawn."""


@dataclass(frozen=True)
class Asked:
    """What is wanted of networks.

    Attributes:
        models: whether they are run at all.
        images: how many validation images they see.
        pictures: how many are shown with boxes.
        trust: unpickle checkpoints without restriction.
    """

    models: bool = True
    images: int = 200
    pictures: int = 4
    trust: bool = False


@dataclass
class Looks:
    """Parts of the page.

    Attributes:
        classes: which became worse; it stands with the evaluation.
        others: the rest, in order.
    """

    classes: str = ''
    others: list[str] = field(default_factory=list)


def looks_of(trainings: Sequence[Training], numbers: Numbers, asked: Asked) -> Looks:
    """Run the networks of finished trainings on validation images; what cannot be had is said in a line."""
    if not asked.models:
        return Looks(others=[_absent('Networks', InputError('left out by --no-models'))])
    try:
        networks, data = opened(trainings, numbers, asked)
    except Exception as error:  # data, configs and checkpoints may have gone since
        names = f'{CLASSES}, pictures, confusion, feature maps, alignment'
        return Looks(others=[_absent(names, error)])
    try:
        task = task_of(networks.distilled)
        tallies = {
            name: tally(task, data, predictions(model, data, name), SCORE)
            for name, model in networks.predictors.items()
        }
    except Exception as error:
        cards = Looks(others=[_absent(f'{CLASSES}, pictures, confusion', error)])
    else:
        cards = _of_predictions(networks, data, tallies, asked.pictures)
    places = data.places[:: max(1, len(data.places) // SHOWN)][:SHOWN]
    cards.others += [
        _guarded(MAPS, lambda: maps_body(maps_of(networks, data, places))),
        _guarded(ALIGNMENT, lambda: alignment_body(*alignments(networks, data))),
    ]
    return cards


def opened(trainings: Sequence[Training], numbers: Numbers, asked: Asked) -> tuple[Networks, Data]:
    """The networks and the images."""
    alone, distilled = chosen_trainings(trainings, numbers)
    networks = load_networks(alone, distilled, asked.trust)
    return networks, validation_data(load_config(config_file(distilled)), asked.images)


def _of_predictions(
    networks: Networks, data: Data, tallies: Mapping[str, Tally], rows: int
) -> Looks:
    """Classes, pictures of a detector, confusion."""
    found = Looks(_guarded(CLASSES, lambda: classes_body(tallies, data, networks.said)))
    if rows and networks.predictors and task_of(networks.distilled) == 'detection':
        found.others.append(_guarded(PICTURES, lambda: _pictures(data, tallies, rows)))
    found.others.append(_guarded(CONFUSION, lambda: confusion_body(tallies, data)))
    return found


def _guarded(title: str, body: Callable[[], str]) -> str:
    """A part of the page, or why it is not there."""
    try:
        return card(title, body())
    except Exception as error:  # one part must not take the page with it
        return _absent(title, error)


def _absent(title: str, error: Exception) -> str:
    reason = str(error) if isinstance(error, InputError) else reason_of(error)
    return f'<p class="dim absent">{escape(title)}: not shown, {escape(reason)}</p>'


# -- classes ---------------------------------------------------------------------------------------


def classes_body(tallies: Mapping[str, Tally], data: Data, which: str) -> str:
    """Classes and sizes, those that lost most first."""
    own, alone = tallies['distilled'], tallies.get('alone')
    changes = changes_of(own, alone)
    shown = changes if len(changes) <= MOST_ROWS else [*changes[:30], *changes[-10:]]
    body = [_row(name, change, tallies) for name, change in shown]
    lost = sum(change < 0 for _, change in changes)
    order = (
        'the worst first'
        if alone is None
        else f'{lost} of {len(changes)} became worse, the worst first'
    )
    less = (
        ''
        if len(shown) == len(changes)
        else f'; {len(changes) - len(shown)} in the middle left out'
    )
    heads = ['', 'change', *tallies]
    return said(
        f'{own.measure} on {len(data.places)} validation images ({which}); {order}{less}.'
    ) + table(heads, body)


def changes_of(own: Tally, alone: Tally | None) -> list[tuple[str, float]]:
    """By how much each class or size is better than alone, the worst first; without it by its score."""
    base = own.scores if alone is None else alone.scores
    names = [name for name in own.scores if name in base]
    changes = {name: 0.0 if alone is None else own.scores[name] - base[name] for name in names}
    return sorted(changes.items(), key=lambda change: (change[1], own.scores[change[0]]))


def _row(name: str, change: float, tallies: Mapping[str, Tally]) -> str:
    colour = 'good' if change > 0 else 'bad' if change < 0 else ''
    values = (of.scores.get(name) for of in tallies.values())
    cells = ''.join(f'<td>{"-" if v is None else f"{v:.3f}"}</td>' for v in values)
    told = f'{change:+.3f}' if 'alone' in tallies else '-'
    return f'<tr><td>{escape(name)}</td><td class="{colour}">{told}</td>{cells}</tr>'


# -- confusion -------------------------------------------------------------------------------------


def confusion_body(tallies: Mapping[str, Tally], data: Data) -> str:
    """Which classes are taken for which by the student alone and the distilled one."""
    students = {name: of for name, of in tallies.items() if name != 'teacher'}
    names = students['distilled'].names
    boxes = names[-1:] == [BACKGROUND]
    about = (
        f'Rows are the truth, columns what was said, on {len(data.places)} validation images'
        + (
            f' (boxes of score {SCORE} and more, matched at IoU .5). Colours are shares of a row.'
            if boxes
            else '. Colours are shares of a row.'
        )
    )
    matrices = ''
    if len(names) <= MOST_CLASSES:
        drawings = (confusion_matrix(name, of) for name, of in students.items())
        matrices = f'<div class="charts">{"".join(f"<div>{one}</div>" for one in drawings)}</div>'
    else:
        about += f' {len(names)} classes are too many to draw.'
    changed = confusion_changes(students) if 'alone' in students else ''
    return said(about) + matrices + changed


def confusion_matrix(title: str, of: Tally) -> str:
    """The matrix of one student: right answers in one colour, wrong ones in another."""
    counts = of.confusion
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    texts = [[_short(n) if n else '' for n in row] for row in counts.tolist()]
    wrong = ~np.eye(len(counts), dtype=bool)
    return matrix(title, of.names, of.names, texts, shares, wrong)


def _short(count: int) -> str:
    """A count in at most four characters.

    >>> _short(950), _short(12_345), _short(3_456_789)
    ('950', '12k', '3M')
    """
    return (
        f'{count // 10**6}M'
        if count >= 10**6
        else f'{count // 1000}k'
        if count >= 10**4
        else str(count)
    )


def confusion_changes(students: Mapping[str, Tally], rows: int = 5) -> str:
    """The mistakes that have become more frequent, then those that have become rarer."""
    alone, own = (students[name].confusion for name in ('alone', 'distilled'))
    names, change = students['distilled'].names, own - alone
    np.fill_diagonal(change, 0)
    order = np.argsort(change, axis=None, kind='stable')[::-1]
    pairs = [divmod(int(flat), len(names)) for flat in order]
    more = [pair for pair in pairs if change[pair] > 0][:rows]
    fewer = [pair for pair in reversed(pairs) if change[pair] < 0][:rows]
    body = [
        f'<tr><td>{escape(names[i])}</td><td class="text">{escape(names[j])}</td>'
        f'<td class="{"bad" if change[i, j] > 0 else "good"}">{change[i, j]:+d}</td>'
        f'<td>{alone[i, j]}</td><td>{own[i, j]}</td></tr>'
        for i, j in [*more, *fewer]
    ]
    return table(['truth', 'taken for', 'change', 'alone', 'distilled'], body, texts=2)


# -- pictures, maps, alignment ---------------------------------------------------------------------


def _pictures(data: Data, tallies: Mapping[str, Tally], rows: int) -> str:
    chosen, caption = compared_images(data, tallies, rows)
    return said(caption) + image(drawn(chosen), 'jpeg', 'ground truth, alone, distilled, teacher')


def maps_body(found: Sequence[tuple[np.ndarray, Sequence[Level]]]) -> str:
    """Images with their maps level by level: student, teacher, difference."""
    about = (
        'Brightness is the mean over channels of the absolute value, each channel standardised; the three '
        "pictures of a level share a scale. The student's maps are those that its method compares, brought to "
        "the teacher's channels where the method does so; r is Pearson's, the mean over channels."
    )
    blocks = (
        f'<div>{_picture(pixels, "the image", "whole")}{"".join(map(_level, levels))}</div>'
        for pixels, levels in found
    )
    return said(about) + f'<div class="maps">{"".join(blocks)}</div>'


def _level(level: Level) -> str:
    alike = '' if level.correlation is None else f', r {level.correlation:.2f}'
    named = dict(student=level.student, teacher=level.teacher, difference=level.gap)
    cells = (
        f'<figure>{_picture(pixels, f"{level.name}, {name}")}<figcaption>{name}</figcaption></figure>'
        for name, pixels in named.items()
    )
    return f'<p>{escape(level.name + alike)}</p><div class="level">{"".join(cells)}</div>'


def _picture(pixels: np.ndarray, words: str, style: str = 'map') -> str:
    return image(cv2.imencode('.png', pixels)[1].tobytes(), 'png', words, style)


def alignment_body(found: Sequence[Alignment], images: int) -> str:
    """A matrix for each student."""
    about = (
        'Linear CKA (unbiased) of every stage of the student (rows) with every stage of the teacher (columns), '
        f'over {images} validation images; 1 is the same up to a rotation and a scale.'
    )
    drawings = (
        f'<div>{matrix(of.of, of.rows, of.columns, [[_cka(v) for v in row] for row in of.values], of.values)}'
        '</div>'
        for of in found
    )
    return said(about) + f'<div class="charts">{"".join(drawings)}</div>'


def _cka(value: float) -> str:
    return '-' if np.isnan(value) else f'{value:.2f}'.replace('0.', '.')
