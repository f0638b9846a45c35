"""Checkpoints with wrong bytes anywhere, and notes of them: none that is damaged is gone on from."""

import random
import zipfile

import pytest
import torch
from killable import differing

from mmkd.errors import InputError
from mmkd.files.checkpoints import read_checkpoint
from mmkd.files.writing import latest_checkpoint
from mmkd.training.manifest import flat


@pytest.fixture
def folder(tmp_path):
    """A work dir with two whole checkpoints; the second is the newest and the named one."""
    for number in (1, 2):
        state = {f'a{i}': torch.rand(50) for i in range(8)}
        optimizer = dict(state={0: dict(step=number)}, param_groups=[dict(lr=0.1 * number)])
        content = dict(state_dict=state, optimizer=optimizer, meta=dict(iter=number))
        torch.save(content, tmp_path / f'iter_{number}.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2.pth'))
    return tmp_path


def regions(path):
    """The parts of a zip file: places of its headers, contents, directory and ends."""
    with zipfile.ZipFile(path) as archive:
        entries, start = archive.infolist(), archive.start_dir
    size = path.stat().st_size
    heads = {i for e in entries for i in range(e.header_offset, e.header_offset + 30)}
    names = {i for e in entries for i in range(e.header_offset + 30, e.header_offset + 60)}
    return {
        'headers': sorted(heads),
        'names': sorted(i for i in names if i < start),
        'contents': sorted(set(range(start)) - heads - names),
        'directory': list(range(start, size - 98)),
        'ends': list(range(size - 98, size)),
    }


def test_a_checkpoint_cut_anywhere_is_passed_over(folder):
    newest, draw = folder / 'iter_2.pth', random.Random(1)
    content = newest.read_bytes()
    for left in [0, 1, len(content) - 1, *(draw.randrange(len(content)) for _ in range(20))]:
        newest.write_bytes(content[:left])
        assert latest_checkpoint(folder) == folder / 'iter_1.pth', left
    newest.write_bytes(content)
    assert latest_checkpoint(folder) == newest


@pytest.mark.parametrize('region', ['headers', 'names', 'contents', 'directory', 'ends'])
def test_a_wrong_bit_anywhere_is_seen_or_changes_nothing(region, folder):
    newest, draw = folder / 'iter_2.pth', random.Random(region)
    content, places = newest.read_bytes(), regions(newest)[region]
    whole = flat(read_checkpoint(newest))
    harmless = 0
    for number in range(150):
        place, bit = draw.choice(places), 1 << draw.randrange(8)
        if region == 'ends':
            place, bit = places[number % len(places)], 1 << draw.randrange(8)
        damaged = bytearray(content)
        damaged[place] ^= bit
        newest.write_bytes(damaged)
        found = latest_checkpoint(folder)
        if found == newest:
            harmless += 1
            assert differing(whole, flat(read_checkpoint(newest))) == [], (place, bit)
        else:
            assert found == folder / 'iter_1.pth', (place, bit)
    assert harmless < 150


@pytest.mark.parametrize(
    'note', [b'', b'\n', b'/gone/iter_9.pth', b'\0\0\0\0', b'\xff\xfe\x80', b'.', b'x' * 5000 + b'.pth']
)  # fmt: skip
def test_a_note_of_the_last_checkpoint_that_is_damaged_is_passed_over(note, folder):
    (folder / 'last_checkpoint').write_bytes(note)
    assert latest_checkpoint(folder) == folder / 'iter_2.pth'
    name = str(folder / 'iter_2.pth').encode()
    (folder / 'last_checkpoint').write_bytes(name[: len(name) // 2])
    assert latest_checkpoint(folder) == folder / 'iter_2.pth'


def test_where_all_are_damaged_it_is_said(folder):
    for path in folder.glob('*.pth'):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r'all checkpoints in .* are truncated or damaged'):
        latest_checkpoint(folder)


def test_a_note_of_a_checkpoint_that_is_gone_is_no_reason_to_start_anew(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('/gone/iter_9.pth')
    with pytest.raises(InputError, match=r'or gone \(last_checkpoint names'):
        latest_checkpoint(tmp_path)
    (tmp_path / 'last_checkpoint').unlink()
    assert latest_checkpoint(tmp_path) is None
