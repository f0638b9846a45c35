"""What the command lines share."""

import logging
import sys
import warnings

import mmengine.logging
import pytest

import mmkd.commands.tool
from mmkd.commands.overrides import nested
from mmkd.commands.tool import ROOT, hush, run_tool
from mmkd.errors import InputError


def test_nested_options():
    assert nested({'a.b.c': 1, 'a.d': 2, 'e': 3}) == {'a': {'b': {'c': 1}, 'd': 2}, 'e': 3}


def ended(main, monkeypatch):
    """The exit status that a tool ends with, None for none, once it has left its ranks."""
    left = []
    monkeypatch.setattr(mmkd.commands.tool, 'leave_ranks', lambda: left.append(1))
    try:
        run_tool(main)
    except SystemExit as stop:
        status = stop.code
    else:
        status = None
    assert left == [1]
    return status


@pytest.mark.parametrize(
    ('error', 'status', 'words'),
    [
        (InputError('weight=-1'), 2, 'error: weight=-1'),
        (
            FloatingPointError('not finite: kd/loss = nan'),
            1,
            'error: not finite: kd/loss = nan; lower',
        ),
        (KeyboardInterrupt(), 130, 'error: stopped by Ctrl-C'),
        (
            PermissionError(13, 'Permission denied', '/root/x'),
            2,
            'error: /root/x: Permission denied',
        ),
        (SystemExit(143), 143, ''),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_a_status(error, status, words, monkeypatch, capsys):
    def main():
        raise error

    assert ended(main, monkeypatch) == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(words)
    assert ''.join(lines).startswith(words)


def test_where_wrong_input_came_from_is_shown_on_request(monkeypatch, capsys):
    def main():
        raise InputError('tap: unknown') from KeyError('here')

    monkeypatch.setenv('MMKD_TRACEBACK', '1')
    assert ended(main, monkeypatch) == 2
    said = capsys.readouterr().err
    assert "KeyError: 'here'" in said
    assert said.endswith('error: tap: unknown\n')


def test_a_status_of_its_own_is_kept_and_none_means_success(monkeypatch):
    assert ended(lambda: sys.exit(143), monkeypatch) == 143
    assert ended(lambda: 'what it gives', monkeypatch) is None


def test_other_errors_keep_their_traceback(monkeypatch):
    def main():
        raise KeyError('a bug')

    with pytest.raises(KeyError, match='a bug'):
        run_tool(main)


def test_configs_and_tools_are_found():
    assert (ROOT / 'configs/demo/student.py').exists()
    assert (ROOT / 'tools/train.py').exists()


def test_debugging_remarks_and_noise_of_packages_are_dropped(monkeypatch, capsys):
    monkeypatch.setattr(mmengine.logging, 'print_log', mmengine.logging.print_log)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        hush()
        hush()
        mmengine.logging.print_log('Could not import OneDL', level=logging.DEBUG)
        mmengine.logging.print_log('a real remark')
        warnings.warn('DeprecationWarning: `num_anchors` is deprecated, for ..', stacklevel=1)
        with pytest.raises(UserWarning, match='a real one'):
            warnings.warn('a real one', stacklevel=1)
    assert capsys.readouterr().out == 'a real remark\n'
