"""The command ``mmkd``: help, wrong words, exit statuses, and that neither takes an import of torch."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

import mmkd_cli
from mmkd.datasets import ShapesSpec
from mmkd_cli.make_shapes import NUMBERS

ROOT = Path(__file__).parents[2]


def output(words, capsys):
    """The status that a command line ends with, and all that it says."""
    status = 0
    try:
        mmkd_cli.main(words)
    except SystemExit as stop:
        status = stop.code
    return status, ''.join(capsys.readouterr())


@pytest.mark.parametrize('words', [['--help'], *([name, '--help'] for name in mmkd_cli.names())])
def test_help_fits_a_screen(words, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '100')
    status, said = output(words, capsys)
    assert status == 0
    assert len(said.splitlines()) <= 48
    assert max(map(len, said.splitlines())) <= 112


def test_the_main_help_has_every_command_on_a_line_examples_and_statuses(capsys):
    _, said = output(['--help'], capsys)
    for name in mmkd_cli.names():
        summary = mmkd_cli.summary(name)
        assert len(summary) <= 60
        assert re.search(rf'^    {name}\s+{re.escape(summary)}$', said, re.M)
    assert 'exit status:\n  0 done' in said


def test_examples_are_command_lines_that_parse():
    for text in [mmkd_cli.EPILOG, *(mmkd_cli.command(n).__doc__ for n in mmkd_cli.names())]:
        lines = text.replace('\\\n', '').splitlines()
        for line in (line.strip() for line in lines):
            words = re.split(r' {3,}', line)[0].split() if line.startswith('mmkd ') else []
            if words and words[1] != 'COMMAND' and '...' not in words:
                mmkd_cli.main_parser().parse_args([w.strip("'") for w in words[1:]])


def test_neither_help_nor_a_wrong_word_imports_torch():
    code = (
        'import sys, json, mmkd_cli\n'
        'for words in json.loads(sys.argv[1]):\n'
        '    try: mmkd_cli.main(words)\n'
        '    except SystemExit: pass\n'
        "assert not {'torch', 'mmengine', 'mmkd', 'rich'} & sys.modules.keys()\n"
    )
    lines = [['--help'], ['trian'], ['train'], *([n, '--help'] for n in mmkd_cli.names())]
    subprocess.run(
        [sys.executable, '-c', code, json.dumps(lines)],
        env={**os.environ, 'PYTHONPATH': str(ROOT)}, check=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize(
    ('words', 'status', 'said'),
    [
        (['trian', 'x.py'], 2, "invalid choice: 'trian'"),
        (['train'], 2, 'the following arguments are required: config'),
        (['train', 'gone.py'], 2, 'error: config gone.py: no such file'),
        (['train', 'x.py', '--cfg-options', 'word'], 2, "--cfg-options: 'word': needed: KEY=VALUE"),
        (['train', 'x.py', '--launcher', 'ssh'], 2, "invalid choice: 'ssh'"),
        (['methods', 'pdk'], 2, "error: unknown method 'pdk'; nearest: 'pkd'"),
        (['compare', 'x.py', '--arms', 'kd', '--work-dir', 'w', '--seeds', '-1'], 2, 'invalid seed'),
        (['--version'], 0, importlib.metadata.version('mmkd')),
    ],
)  # fmt: skip
def test_statuses(words, status, said, capsys):
    found, text = output(words, capsys)
    assert found == status, text
    assert said in text


def test_what_did_not_come_out_well_is_status_1(monkeypatch):
    monkeypatch.setattr(mmkd_cli.command('doctor'), 'run', lambda args: False)
    with pytest.raises(SystemExit) as end:
        mmkd_cli.main(['doctor'])
    assert end.value.code == 1


def test_overrides_are_read_as_python_values():
    parser = mmkd_cli.fill(argparse.ArgumentParser(), 'train')
    given = parser.parse_args(['x.py', '--cfg-options', 'a.b=[1,2]', 'c=True', 'd=text'])
    assert given.cfg_options == {'a.b': [1, 2], 'c': True, 'd': 'text'}
    assert (given.launcher, given.trust_checkpoint) == ('none', False)


def test_drawing_has_the_numbers_of_the_data_set():
    assert asdict(ShapesSpec()) == NUMBERS


def test_python_runs_the_package(capsys):
    result = subprocess.run(
        [sys.executable, '-m', 'mmkd', '--version'],
        env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.stdout.startswith('mmkd ')
