"""The table during training: on a terminal, and given back whatever happens."""

from __future__ import annotations

import io
import logging
import re
import sys

import helpers as h
import pytest
from rich.console import Console

from mmkd.commands import live, train
from mmkd.commands.live import LiveHook, view

NUMBERS = {
    'loss': 3.0, 'loss_cls': 1.25, 'dpk/loss_relation': 0.5, 'dpk/weight': 2.0, 'dpk/share': 0.375,
    'dpk/ratio.P3': 0.75, 'dpk/cka.P3': 0.25, 'dpk/samples.P3': 16.0, 'time': 0.5, 'lr': 0.01,
}  # fmt: skip


def text_of(*arguments, width=120):
    console = Console(file=io.StringIO(), width=width)
    console.print(view(*arguments))
    return console.file.getvalue()


def test_what_is_shown():
    rows = [['', 'student', 'alone'], ['coco/bbox_mAP', '0.3456', '0.31']]
    said = text_of(NUMBERS, 30, 100, rows, 'validating 1 of 4')
    assert 'iteration 30 of 100  0:00:35 left  0.500 s / iteration  validating 1 of 4' in said
    for words in (
        r'loss_cls +1.25',
        r'dpk/loss_relation +0.5',
        r'dpk/weight +2',
        r'student +alone',
        r'coco/bbox_mAP +0.3456 +0.31',
        r'dpk/share +37.5 %',
    ):
        assert re.search(words, said)
    assert re.search(r'teacher +alignment', said)
    assert [said.splitlines()[1].strip('━╸╺ '), said.splitlines()[2][0]] == ['', '╭']
    assert re.search(r'P3 +0.75 +0.25', said)
    assert 'lr' not in said


def test_it_fits_a_narrow_terminal():
    said = text_of(NUMBERS, 1, 100, [], width=60)
    assert max(map(len, said.splitlines())) <= 60
    assert 'validation' not in said


@pytest.fixture
def config(shapes, tmp_path):
    cfg, teacher = (h.runner_config('classifier', tmp_path / 'work', shapes) for _ in range(2))
    teacher.dump(tmp_path / 'teacher.py')
    cfg.train_cfg.max_epochs, cfg.log_level = 1, 'INFO'
    cfg.train_dataloader.dataset.indices, cfg.val_dataloader.dataset.indices = 8, 4
    return train.training_config(
        cfg, method='pkd', teacher=str(tmp_path / 'teacher.py'), checkpoint='untrained'
    )


def trained(config, monkeypatch, terminal=True):
    """What a console shows of a training."""
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal)
    monkeypatch.setattr(train, 'LiveHook', lambda **given: LiveHook(console, **given))
    monkeypatch.setattr(live, 'EVERY', 0.0)
    train.train(config)
    return console.file.getvalue()


def test_a_terminal_has_the_table_and_the_file_the_lines(config, tmp_path, monkeypatch, capsys):
    said = trained(config, monkeypatch)
    assert 'iteration 4 of 4' in said
    assert 'validating 1 of 2' in said
    assert 'accuracy/top1' in said
    assert 'pkd/loss' in said
    assert re.search(r'pkd/share +\d+\.\d %', said)
    assert 'Epoch(train)' not in said + ''.join(capsys.readouterr())
    assert 'Epoch(train) [1][4/4]' in next((tmp_path / 'work').glob('*/*.log')).read_text()


@pytest.mark.parametrize('plain', [True, False])
def test_elsewhere_there_are_lines(plain, config, monkeypatch):
    if plain:
        monkeypatch.setenv(live.PLAIN, '1')
    assert trained(config, monkeypatch, terminal=plain) == ''


def test_the_terminal_is_given_back_when_training_breaks(config, monkeypatch):
    def broken(*args, **options):
        raise FloatingPointError('not finite: pkd/loss = nan')

    monkeypatch.setattr('mmkd.methods.pkd.PKD.forward', broken)
    stdout, cursor = sys.stdout, '\x1b[?25h'
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    monkeypatch.setattr(train, 'LiveHook', lambda **given: LiveHook(console, **given))
    with pytest.raises(FloatingPointError):
        train.train(config)
    assert sys.stdout is stdout
    assert console.file.getvalue().endswith(cursor)
    handlers = [x for log in logging.Logger.manager.loggerDict.values() if isinstance(log, logging.Logger)
                for x in log.handlers if type(x) is logging.StreamHandler]  # fmt: skip
    assert not any(type(handler.stream).__name__ == 'FileProxy' for handler in handlers)
