"""What is said of methods is what their signatures and docstrings say."""

import inspect
import io
import json
import re
import statistics
from pathlib import Path

import pytest
from rich.console import Console

from mmkd.commands.methods import (
    EVIDENCE,
    KNOWN,
    STEPS,
    known_methods,
    options_of,
    show_method,
    show_methods,
)
from mmkd.core.options import annotations_of

ROOT = Path(__file__).parents[2]
README = ROOT / 'README.md'
FIGURES = ROOT / 'benchmarks/speed/results/methods.json'
FEW = 4
"""So many methods may wait to be measured (``benchmarks/speed/methods.py --methods NAME --out``).

No detector of the toolboxes has the heads that GO-LSD is for.
"""
OURS = {n: kind for n, kind in known_methods().items() if kind.__module__.startswith('mmkd.')}


def printed(show, *names, width=300):
    console = Console(width=width, record=True, file=io.StringIO())
    show(*names, console)
    return console.export_text()


def test_every_method_has_a_line_in_both_tables():
    said = printed(show_methods)
    for name, kind in OURS.items():
        row = row_of(said, name)
        assert inspect.getdoc(kind).splitlines()[0] in row
        assert ('none' in row.split()) == (not kind.needs_teacher)


def test_what_they_read_is_what_the_readme_says():
    rows = re.findall(r'^\| \[`(\w+)`\]\(\S+\) \| .* \| (.*) \| (.*) \|$', README.read_text(), re.M)
    assert {name.replace('_', ''): (reads, tasks) for name, reads, tasks in rows} == KNOWN
    assert KNOWN.keys() == OURS.keys()


def test_steps_are_those_of_the_benchmark_and_nearly_every_method_has_one():
    found = json.loads(FIGURES.read_text())
    assert {n: (round(f['ratio'], 2), round(f['predicted'], 2)) for n, f in found.items()} == STEPS
    assert STEPS.keys() <= OURS.keys()
    assert len(OURS.keys() - STEPS.keys()) <= FEW, 'measure those that are new'
    for figure in found.values():
        times = [statistics.median(figure['seconds'][key]) for key in ('method', 'alone')]
        assert times[0] / times[1] == pytest.approx(figure['ratio'], abs=1e-3)
        work = figure['multiply_adds']
        assert work['method'] / work['alone'] == pytest.approx(figure['predicted'], abs=1e-3)
    said = printed(show_methods)
    for name, (ratio, predicted) in STEPS.items():
        assert f'{ratio:.2f} ({predicted:.2f})' in row_of(said, name)
    for name in OURS.keys() - STEPS.keys():
        assert not re.search(r'\d\.\d\d \(', row_of(said, name))


def test_what_is_measured_here_stands_in_the_results():
    page = (ROOT / 'docs/results.md').read_text()
    said = printed(show_methods)
    for name, words in EVIDENCE.items():
        assert words in row_of(said, name)
        for number in re.findall(r'[\d.]+\d', words.replace('CIFAR-10', '')):
            assert number in page, f'{name}: {number} is not in docs/results.md'
    for name in OURS.keys() - EVIDENCE.keys():
        assert row_of(said, name).split()[-1] == '-'


def row_of(said, name):
    """What both tables say of a method."""
    return ' '.join(line for line in said.splitlines() if line.split()[:1] == [name])


@pytest.mark.parametrize('name', OURS)
def test_every_option_is_there_with_its_default_and_a_meaning(name):
    kind = OURS[name]
    options = options_of(kind)
    assert {option.name for option in options} == set(annotations_of(kind)) - {'options'}
    said = printed(show_method, name)
    for option in options:
        assert option.meaning, f'{name}: the docstring does not say what {option.name} is'
        assert f'\n{option.name}={option.default}\n' in said
    assert ('weight by default' in said) == bool(kind.weights)


def test_a_default_is_what_python_takes():
    found = {option.name: option for option in options_of(OURS['dpk'])}
    assert (found['mask'].default, found['seed'].needed) == ("'random'", 'a whole number >= 0')
