"""A disk that is really full: training ends with one message, and goes on when there is room."""

import os
import subprocess
from pathlib import Path

import pytest
from killable import Process, differing, final, training

from mmkd.files.checkpoints import read_checkpoint
from mmkd.files.writing import latest_checkpoint

MEGABYTE = 2**20


@pytest.fixture
def disk(tmp_path):
    """A file system of 6 MB of its own."""
    place = tmp_path / 'disk'
    place.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=6m', 'tmpfs', str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip('mounting a file system needs root')
    yield place
    subprocess.run(['umount', str(place)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('room', 'left'),
    [(6 * MEGABYTE, ['iter_2.pth', 'iter_4.pth']),
     (12288, [])],
    ids=['checkpoints', 'logs'],
)  # fmt: skip
def test_a_disk_that_is_full_is_answered_and_training_goes_on_with_room(
    room, left, shapes, tmp_path, disk
):
    cfg = training('short', shapes, tmp_path, vis_backends=[dict(type='LocalVisBackend')])
    filler = disk / 'filler'
    filler.write_bytes(bytes(6 * MEGABYTE - room))
    full = Process(cfg, disk / 'run', log=tmp_path / 'full.log')
    assert full.process.wait() == 2
    log = full.log.read_text()
    assert log.count('error: ') == 1, log[-3000:]
    assert 'no space left on the disk' in log.splitlines()[-1]
    assert '--resume' in log.splitlines()[-1]
    assert 'Traceback' not in log
    assert 'Logging error' not in log
    assert sorted(path.name for path in (disk / 'run').glob('*.p*t*')) == left
    for name in left:
        assert read_checkpoint(disk / 'run' / name)['meta']['iter'] == int(Path(name).stem[5:])
    if left:
        assert latest_checkpoint(disk / 'run').name == left[-1]
    filler.unlink()
    subprocess.run(['mount', '-o', 'remount,size=64m', str(disk)], check=True)
    straight = Process(cfg, tmp_path / 'straight')
    resumed = Process(cfg, disk / 'run', log=tmp_path / 'resumed.log')
    assert (straight.process.wait(), resumed.process.wait()) == (0, 0), resumed.log.read_text()
    assert ('resumed' in resumed.log.read_text()) == bool(left)
    (name, ours), (other, theirs) = final(tmp_path / 'straight'), final(disk / 'run')
    assert name == other == 'iter_12.pth'
    assert differing(ours, theirs) == []
