"""Files that are small on the disk and large in memory, and names that files ask for."""

import io
import pickle
import zipfile

import helpers as h
import numpy as np
import pytest
import torch
from hostile import Call

from mmkd.files.checkpoints import read_checkpoint
from mmkd.files.inspection import survey


def rewritten(path, change=lambda content: content, compression=zipfile.ZIP_STORED):
    """The archive of one number with another pickle in it."""
    torch.save(dict(a=torch.ones(16)), path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w', compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, change(content) if name.endswith('data.pkl') else content)
    return path


def test_what_inflates_is_not_unpacked(tmp_path):
    torch.save(dict(a=torch.zeros(2**20)), tmp_path / 'plain.pth')
    with zipfile.ZipFile(tmp_path / 'plain.pth') as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / 'c.pth', 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    message = h.message_of(read_checkpoint, tmp_path / 'c.pth')
    assert 'unpacks to 4 MiB in a file of' in message
    assert 'damaged' not in message


def declared(content):
    """A storage of 2e9 numbers in place of 16."""
    return content.replace(b'K\x10tq\x07Q', b'J\x00\x94\x35\x77tq\x07Q')


def test_a_storage_that_is_not_there_is_not_made(tmp_path):
    message = h.message_of(read_checkpoint, rewritten(tmp_path / 'c.pth', declared))
    assert 'declares a tensor of 2e+09 numbers in a file of' in message


def test_a_legacy_storage_that_is_not_there_is_not_made(tmp_path):
    buffer = io.BytesIO()
    torch.save(dict(a=torch.ones(16)), buffer, _use_new_zipfile_serialization=False)
    content = buffer.getvalue()
    assert content.count(b'K\x10N') == 1  # the size, then no view
    (tmp_path / 'c.pth').write_bytes(content.replace(b'K\x10N', b'J\x00\x94\x35\x77N'))
    assert 'declares a tensor of 2e+09' in h.message_of(read_checkpoint, tmp_path / 'c.pth')


def doubled(kind, times=40):
    value = kind(())
    for _ in range(times):
        value = kind((value, value))
    return value


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (dict(a=torch.zeros(1).expand(10**6, 10**6)), 'declares a tensor of 3.638 TiB'),
        (dict(a=torch.empty(10**6, 10**6, device='meta')), 'declares a tensor of 3.638 TiB'),
        (dict(a=doubled(list)), 'unfolds to'),
        (dict(a=[doubled(tuple)]), 'unfolds to'),
    ],
)
def test_what_claims_far_more_than_there_is_is_refused(content, words, tmp_path):
    torch.save(content, tmp_path / 'c.pth')
    assert words in h.message_of(read_checkpoint, tmp_path / 'c.pth')


def test_a_key_that_takes_years_to_hash_is_refused_before_it_is_one(tmp_path):
    key = pickle.dumps(doubled(tuple, 60), 2)[2:-1]  # its hash walks through 2 ** 60 parts

    def as_key(content):
        return b'\x80\x02}' + key + b'K\x01s.'

    message = h.message_of(read_checkpoint, rewritten(tmp_path / 'c.pth', as_key))
    assert 'unfolds to 2.31e+18 values' in message


def test_values_that_hold_each_other_are_refused(tmp_path):
    ring: list = []
    ring.append(ring)
    torch.save(dict(a=ring), tmp_path / 'c.pth')
    assert 'without end' in h.message_of(read_checkpoint, tmp_path / 'c.pth')


def test_what_is_large_and_there_is_read(tmp_path):
    content = dict(a=torch.zeros(1).expand(1000, 1000), b=[0] * 10**5, c=('x',) * 10**4)
    torch.save(content, tmp_path / 'c.pth')
    assert read_checkpoint(tmp_path / 'c.pth')['a'].shape == (1000, 1000)
    with zipfile.ZipFile(
        rewritten(tmp_path / 'd.pth', compression=zipfile.ZIP_DEFLATED)
    ) as archive:
        assert archive.infolist()[0].compress_type == zipfile.ZIP_DEFLATED
    assert read_checkpoint(tmp_path / 'd.pth')['a'].sum() == 16


def test_more_than_the_memory_is_named(tmp_path):
    torch.save(dict(a=Call(torch.FloatTensor, 10**9, 10**6)), tmp_path / 'c.pth')
    assert 'declares more than the memory holds' in h.message_of(
        read_checkpoint, tmp_path / 'c.pth'
    )


def test_another_protocol_without_code_is_named(tmp_path):
    torch.save(dict(a=np.float64(1.0)), tmp_path / 'c.pth', pickle_protocol=4)
    message = h.message_of(read_checkpoint, tmp_path / 'c.pth')
    assert 'pickle protocol 4' in message
    assert 'save it again with pickle_protocol=2' in message


def test_a_wrong_checksum_makes_an_unknown_name_damage(tmp_path):
    torch.save(dict(a=torch.ones(16)), tmp_path / 'c.pth')
    content = (tmp_path / 'c.pth').read_bytes()
    (tmp_path / 'c.pth').write_bytes(content.replace(b'_rebuild_tensor_v2', b'_rebuild_tensos_v2'))
    assert 'damaged' in h.message_of(read_checkpoint, tmp_path / 'c.pth')


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_names_are_found_in_every_protocol_also_where_they_are_repeated(protocol):
    content = pickle.dumps([print, exec, {'builtins': 'len'}, len], protocol)
    names = survey(io.BytesIO(content)).names
    assert names == ['builtins.print', 'builtins.exec', 'builtins.len']
