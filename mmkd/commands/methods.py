"""What ``mmkd methods`` shows: the registered methods, and the options of one."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..core.method import Method, find_method, method_names
from ..core.options import annotations_of, words_of

KNOWN = {
    'at': ('features', 'all'),
    'bckd': ('heads: dense with sigmoid classes', 'detection'),
    'crd': ('embeddings', 'classification'),
    'crosskd': ('heads: dense with towers of convolutions', 'detection'),
    'cwd': ('features or logits', 'all'),
    'dist': ('logits', 'classification'),
    'dkd': ('logits', 'classification'),
    'dpk': ('features, and logits of classifiers', 'all'),
    'fgd': ('features and boxes', 'detection'),
    'fitnet': ('features', 'all'),
    'frskd': ('stages or pyramid', 'all'),
    'golsd': ('heads: decoders with bins (D-FINE)', 'detection'),
    'kd': ('heads: softmax, sigmoid, RoI, query', 'classification, detection, segmentation'),
    'kddetr': ('heads: queries of one kind', 'detection'),
    'ld': ('heads: dense with bins (GFL)', 'detection'),
    'mgd': ('features', 'all'),
    'ofd': ('stages of residual networks', 'classification'),
    'pkd': ('features', 'all'),
    'pskd': ('logits', 'classification'),
    'reviewkd': ('stages or pyramid', 'all'),
    'rkd': ('embeddings', 'classification'),
    'sfr': ('stages', 'all'),
    'vfm': ('features', 'all'),
}
"""What our methods read, and for which tasks; of others it is not known."""

STEPS: dict[str, tuple[float, float]] = {
    'at': (1.36, 1.22),
    'bckd': (1.44, 1.46),
    'crd': (1.6, 1.69),
    'crosskd': (1.7, 1.68),
    'cwd': (1.37, 1.22),
    'dist': (1.55, 1.69),
    'dkd': (1.56, 1.69),
    'dpk': (1.46, 1.23),
    'fgd': (1.36, 1.22),
    'fitnet': (1.42, 1.22),
    'frskd': (1.82, 1.88),
    'kd': (1.56, 1.46),
    'kddetr': (2.12, 2.22),
    'ld': (1.53, 1.46),
    'mgd': (1.49, 1.45),
    'ofd': (1.68, 1.73),
    'pkd': (1.35, 1.22),
    'reviewkd': (1.54, 1.35),
    'rkd': (1.62, 1.69),
    'sfr': (0.98, 1.02),
    'vfm': (1.37, 1.5),
}
"""Seconds of a training step for one of the student alone, and what multiply-adds predict of it, 2026-11-25.

GFL or Deformable DETR, ResNet-50 to ResNet-18, or classifiers, ResNet-34 to ResNet-18, on one thread of a CPU
with an exact teacher. ``benchmarks/speed/methods.py`` measures; its ``results/methods.json`` has all figures.
"""
EVIDENCE = {
    'dpk': 'CIFAR-10 +6.11, BCCD +0.0432',
    'frskd': 'CIFAR-10 +2.8, BCCD none',
    'kd': 'CIFAR-10 +3.72, BCCD open',
    'pkd': 'BCCD +0.0494',
    'sfr': 'CIFAR-10 -0.5, BCCD none',
}
"""What docs/results.md has: top-1 and AP above the student alone. Of others it has none of ours."""

BASES = {'method', 'featuremethod'}


@dataclass(frozen=True)
class Option:
    """One option of a method.

    Attributes:
        name: as a config spells it.
        default: as Python writes it; empty where there is none.
        needed: what it may be, in words.
        meaning: what the docstring says of it.
    """

    name: str
    default: str
    needed: str
    meaning: str


def known_methods() -> dict[str, type[Method]]:
    """Every method that can be named, by name.

    >>> known_methods()['pkd'].__name__
    'PKD'
    """
    return {name: kind for name, kind in sorted(method_names().items()) if name not in BASES}


def show_methods(console: Console | None = None) -> None:
    """Print a line for each method: what it does, then what it reads and costs."""
    sentences = Table('method', 'what it does', box=SIMPLE_HEAD)
    facts = Table('method', 'reads', 'tasks', 'teacher', 'step', 'measured here', box=SIMPLE_HEAD)
    for name, kind in known_methods().items():
        reads, tasks = KNOWN.get(name, ('', ''))
        teacher = 'yes' if kind.needs_teacher else 'none'
        sentences.add_row(name, first_line(kind))
        facts.add_row(name, reads, tasks, teacher, step_of(name), EVIDENCE.get(name, '-'))
    console = console or Console()
    console.print(sentences)
    console.print(facts)
    console.print(
        'step: seconds of a training step for one of the student alone (in brackets what multiply-adds '
        'predict), docs/speed.md; measured here: docs/results.md, published figures apart.\n'
        'mmkd methods NAME prints the options of one.',
        markup=False,
    )


def step_of(name: str) -> str:
    """What a method's training step costs, and what it was to cost.

    >>> step_of('unheard of')
    '-'
    """
    return '{:.2f} ({:.2f})'.format(*STEPS[name]) if name in STEPS else '-'


def show_method(name: str, console: Console | None = None) -> None:
    """Print what a method does and its options."""
    kind = find_method(name)
    console = console or Console()
    text = inspect.cleandoc(kind.__doc__ or '')
    text = re.split(r'\n\n(?=Args:|>>>)', text)[0].replace('``', '')
    console.print(f'{text}\n', markup=False, highlight=False, soft_wrap=True)
    if kind.weights:
        weights = ', '.join(f'{task} {value:g}' for task, value in kind.weights.items())
        console.print(f'weight by default: {weights}; other tasks 1\n', markup=False)
    for option in options_of(kind):
        console.print(f'{option.name}={option.default}', style='bold', markup=False)
        for line in filter(None, (option.meaning, option.needed and f'({option.needed})')):
            console.print(Padding(Text(line.replace('``', '')), (0, 0, 0, 4)))


def first_line(kind: type[Method]) -> str:
    """What a method does, in a sentence.

    >>> first_line(find_method('fitnet'))
    'Mean squared error between features.'
    """
    return inspect.cleandoc(vars(kind).get('__doc__') or '').partition('\n')[0]


def options_of(kind: type[Method]) -> list[Option]:
    """The options of a method, its own first, those of its bases after them."""
    found: dict[str, Option] = {}
    for base in kind.__mro__:
        if not issubclass(base, Method) or '__init__' not in vars(base):
            continue
        meanings = meanings_of(base)
        hints = _hints(base)
        for parameter in list(inspect.signature(vars(base)['__init__']).parameters.values())[1:]:
            if parameter.kind is parameter.VAR_KEYWORD or parameter.name in found:
                continue
            empty = parameter.default is parameter.empty
            found[parameter.name] = Option(
                parameter.name,
                '' if empty else repr(parameter.default),
                words_of(hints[parameter.name]) if parameter.name in hints else '',
                meanings.get(parameter.name, ''),
            )
    return list(found.values())


def _hints(base: type) -> dict[str, Any]:
    return {name: hint for name, hint in annotations_of(base).items() if hint is not Any}


def meanings_of(kind: type) -> dict[str, str]:
    """What the ``Args:`` of a docstring says of each option.

    >>> meanings_of(find_method('kd'))['teacher_tap']
    'the same for the teacher.'
    """
    text = inspect.cleandoc(vars(kind).get('__doc__') or '')
    section = re.search(r'^Args:\n((?:    .*\n?|\n)+)', text, re.M)
    entries = re.findall(r'^    (\w+): (.*(?:\n        .*)*)', section[1] if section else '', re.M)
    return {name: ' '.join(words.split()) for name, words in entries}
