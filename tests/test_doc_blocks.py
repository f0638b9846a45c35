"""The blocks of the pages run as they stand, in a folder that has the files they name.

A block with ``<!-- not run: REASON -->`` above it is not run, one with ``<!-- file: NAME -->`` becomes that
file. Of all others those of shell and Python are run, page by page and in order, so that a block finds what
the one before has left.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(
        ROOT / name
        for name in ('README.md', 'README_zh-CN.md', 'CONTRIBUTING.md', 'benchmarks/README.md')
    ),
    *sorted((ROOT / 'docs').rglob('*.md')),
]
SHELL = re.compile(r'(mmkd|python|make|pip|sbatch|srun|cd|\.|tools/\w+\.sh|[A-Z_]+=\S+) ')
MARK = re.compile(r'<!-- (not run|file): (.+) -->$')


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        line: where it begins.
        kind: ``bash``, ``python``, or nothing for a drawing, a formula or what a command prints.
        text: without its indentation.
        reason: why it is not run.
        file: what it is a file of.
    """

    line: int
    kind: str
    text: str
    reason: str = ''
    file: str = ''


def blocks_of(text: str) -> Iterator[Block]:
    """The fenced and the indented blocks of a page."""
    lines = text.split('\n')
    number, marks = 0, {}
    while number < len(lines):
        line, before = lines[number], lines[number - 1] if number else ''
        if found := MARK.search(line):
            marks = {dict(file='file').get(found[1], 'reason'): found[2]}
        elif fence := re.match(r'```(\w*)$', line):
            end = lines.index('```', number + 1)
            body = '\n'.join(lines[number + 1 : end])
            yield Block(number + 1, fence[1], body, **marks)
            number, marks = end, {}
        elif line.startswith('    ') and not before.strip():
            end = number
            while end < len(lines) and (lines[end].startswith('    ') or not lines[end].strip()):
                end += 1
            body = textwrap.dedent('\n'.join(lines[number:end])).rstrip()
            yield Block(number + 1, kind_of(body), body, **marks)
            number, marks = end - 1, {}
        elif line.strip():
            marks = {}
        number += 1


def kind_of(body: str) -> str:
    """What an indented block is: a command begins it, or Python reads it, which reads some formulas as well."""
    if SHELL.match(f'{body.splitlines()[0]} '):
        return 'bash'
    try:
        ast.parse(body)
    except SyntaxError:
        return ''
    return 'python' if re.search(r'^import |\bdict\(', body) else ''


def named(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


BLOCKS = {path: list(blocks_of(path.read_text())) for path in PAGES}
RUN = [path for path in PAGES if any(block.kind and not block.reason for block in BLOCKS[path])]


def test_blocks_are_found_and_told_apart():
    page = textwrap.dedent('''\
        Text.

            mmkd doctor

        <!-- not run: takes hours -->

            make all

        ```python
        a = 1
        ```

            L = a + b

        <!-- file: b.py -->
        ```python
        b = 2
        ```
        ''')  # fmt: skip
    assert list(blocks_of(page)) == [
        Block(3, 'bash', 'mmkd doctor'),
        Block(7, 'bash', 'make all', 'takes hours'),
        Block(9, 'python', 'a = 1'),
        Block(13, '', 'L = a + b'),
        Block(16, 'python', 'b = 2', file='b.py'),
    ]


@pytest.mark.parametrize('path', PAGES, ids=named(PAGES))
def test_what_is_no_code_has_no_command(path):
    for block in BLOCKS[path]:
        assert block.kind in ('bash', 'python', '')
        for line in block.text.split('\n'):
            assert block.kind or not re.match(r'(mmkd|python|make|pip) \w', line), line
        assert block.kind or not block.reason, f'line {block.line}: a reason without a command'


@pytest.mark.parametrize('path', PAGES, ids=named(PAGES))
def test_what_is_not_run_exists(path):
    """Of blocks that are not run: targets of make, scripts, and that a shell reads them."""
    makefile = (ROOT / 'Makefile').read_text()
    for block in BLOCKS[path]:
        if block.kind != 'bash':
            continue
        for target in re.findall(r'^make ([\w-]+)', block.text, re.M):
            assert f'\n{target}:' in makefile, target
        for script in re.findall(
            r'(?<![\w/])((?:tools|benchmarks)/[\w/.]+\.(?:py|sh))', block.text
        ):
            assert (ROOT / script).exists(), script
        read = subprocess.run(['bash', '-n'], input=block.text, capture_output=True, text=True)
        assert read.returncode == 0, read.stderr


SCRIPTS = sorted(
    {
        (path, words)
        for path in PAGES
        for block in BLOCKS[path]
        for words in re.findall(
            r'^python ((?:tools|benchmarks)/.*)$', block.text.replace('\\\n', ' '), re.M
        )
    }
)


@pytest.mark.slow
@pytest.mark.parametrize(('path', 'words'), SCRIPTS)
def test_options_of_scripts_exist(path, words):
    """Of scripts that take too long to be run."""
    script, *given = words.partition(' #')[0].split()
    command = [given[0]] if given and given[0].isalpha() and script.endswith('sweep.py') else []
    told = subprocess.run(
        [sys.executable, ROOT / script, *command, '--help'],
        capture_output=True,
        text=True,
        env=environment(ROOT),
    )
    assert told.returncode == 0, told.stderr[-2000:]
    for option in re.findall(r'(--[\w-]+)', words):
        assert option in told.stdout, f'{words}: {option}'


# -- a folder in which they run --------------------------------------------------------------------

STUDENTS = (
    'my',
    'my_student',
    'student',
    'my_retinanet',
    't',
    'teacher',
    'my_teacher',
    'r50',
    'r101',
)
"""Configs and checkpoints that the pages name; all are one small detector."""


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """A small detector with weights, and drawn data of eight images."""
    import helpers as h
    import torch

    from mmkd.datasets import ShapesSpec, make_shapes
    from mmkd.family.building import build_model, model_config

    folder = tmp_path_factory.mktemp('small')
    spec = ShapesSpec(train=8, val=4, smallest=64, largest=80, objects=4, crop=32)
    make_shapes(folder / 'data/demo', spec, quiet=True)
    (folder / 'data/unlabelled').symlink_to(folder / 'data/demo/images')
    cfg = h.runner_config('retinanet', folder / 'unused', folder / 'data/demo')
    cfg.pop('work_dir')
    cfg.train_cfg.update(max_epochs=12, val_interval=12)
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=5)
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    cfg.optim_wrapper.optimizer.lr = 0.001  # of two methods together larger ones diverge
    cfg.log_level = 'WARNING'
    cfg.dump(folder / 'student.py')
    tiny = folder / 'data/tiny-imagenet-200/val/images'
    tiny.mkdir(parents=True)
    (tiny / 'a.JPEG').write_text('')
    (tiny.parent / 'val_annotations.txt').write_text('a.JPEG\tn01\t0\t0\t62\t62\n')
    weights = build_model(model_config(cfg)).state_dict()
    torch.save(dict(state_dict=weights), folder / 'student.pth')
    return folder


@pytest.fixture
def world(small, tmp_path):
    """The files that pages name, and ``mmkd`` and ``python`` on the path."""
    import report_logs as logs

    for name in STUDENTS:
        for suffix in ('py', 'pth'):
            shutil.copy(small / f'student.{suffix}', tmp_path / f'{name}.{suffix}')
    (tmp_path / 'data').mkdir()
    for path in (small / 'data').iterdir():
        (tmp_path / 'data' / path.name).symlink_to(path)
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ('my', 'demo/alone'):
        logs.trained(tmp_path / 'work_dirs' / name, 0.3, distilled=False)
    for name in ('my_pkd', 'demo/distilled'):
        logs.trained(tmp_path / 'work_dirs' / name, 0.4)
    for name in ('teacher_test', 'demo/teacher'):
        logs.trained(tmp_path / 'work_dirs' / name, 0.6, distilled=False)
    commands = tmp_path / 'bin'
    commands.mkdir()
    for name, start in (('mmkd', '-m mmkd '), ('python', '')):
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {start}"$@"\n')
        (commands / name).chmod(0o755)
    return tmp_path


def environment(world: Path) -> dict[str, str]:
    return {
        **os.environ,
        'PATH': f'{world / "bin"}:{os.environ["PATH"]}',
        'PYTHONPATH': str(ROOT),
        'PYTHONSAFEPATH': '1',
        'OMP_NUM_THREADS': '1',
    }


@pytest.mark.slow
@pytest.mark.parametrize('path', RUN, ids=named(RUN))
def test_blocks_run_as_they_stand(path, world):
    script: list[str] = []
    for block in BLOCKS[path]:
        if block.reason or not block.kind:
            continue
        if block.file or '{{_base_' in block.text:
            file = world / (block.file or 'block.py')
            file.unlink(missing_ok=True)
            file.write_text(block.text)
            run([sys.executable, '-c', CONFIG, file.name], world, path, block)
        elif block.kind == 'bash':
            run(['bash', '-euo', 'pipefail', '-c', block.text], world, path, block)
        else:
            script.append(block.text)
            run([sys.executable, '-c', '\n'.join([*script, FRAGMENT])], world, path, block)


CONFIG = """
import sys
from mmkd.core.method import build_method
from mmkd.family.building import load_config, model_config
cfg = load_config(sys.argv[1])
assert model_config(cfg).backbone
for name, options in cfg.model.get('methods', {}).items():
    build_method(name, options)
"""
"""A page's config is one: it has a network, and its methods have these options."""
FRAGMENT = """
import inspect
from mmkd import Teacher
from mmkd.core.method import build_method
for name, options in globals().get('methods', {}).items():
    build_method(name, options)
known = {*inspect.signature(Teacher).parameters, 'name'}
for options in [globals()['teacher']] if 'teacher' in globals() else []:
    named = [options] if 'config' in options else options.values()
    assert all(set(one) <= known for one in named), options
"""
"""What a fragment calls methods and teacher has the options that they have."""


def run(command, world, path, block):
    result = subprocess.run(
        command, cwd=world, env=environment(world), capture_output=True, text=True, timeout=900
    )
    said = f'{path.relative_to(ROOT)}, line {block.line}:\n{block.text}\n{result.stdout}{result.stderr}'
    assert result.returncode == 0, said[-5000:]
