"""How a tool ends: one line and a status for what a user can mend, never a traceback."""

import pytest

from mmkd import InputError
from mmkd.commands.tool import run_tool


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
def test_what_a_user_can_mend_is_one_line_and_a_status(error, status, words, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    assert stop.value.code == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(words)
    assert ''.join(lines).startswith(words)


def test_other_errors_keep_their_traceback():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_tool(main)


def test_a_tool_that_ends_well_has_no_status():
    assert run_tool(lambda: None) is None
