"""A lock file: one holder at a time, free again however the holder ends."""

import errno
import fcntl
import subprocess
import sys

import pytest

from mmkd.files.locks import held

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], 'a')
fcntl.flock(file, fcntl.LOCK_EX)
print('mine', flush=True)
time.sleep(60)
"""


def test_it_is_free_again_after_the_block_and_after_an_error(tmp_path):
    path = tmp_path / 'new' / 'lock'
    with held(path) as first, held(path) as second:
        assert (first, second) == (True, False)
    with pytest.raises(KeyError), held(path):
        raise KeyError
    with held(path) as again:
        assert again


def test_another_process_holds_it_until_it_is_killed(tmp_path):
    path = tmp_path / 'lock'
    command = [sys.executable, '-c', HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == 'mine\n'
        with held(path) as ours:
            assert not ours
        process.kill()
        process.wait()
        with held(path) as ours:
            assert ours


def test_a_file_system_without_locks_stops_nobody(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', refuse)
    with held(tmp_path / 'lock') as first, held(tmp_path / 'lock') as second:
        assert first
        assert second
