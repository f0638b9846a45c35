import os

import pytest

import mmkd.files.store as store_module
from mmkd.files.store import DIGEST, Store


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(store_module, 'print_log', lambda text, *_: lines.append(text))
    return lines


def held(folder):
    return sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())


@pytest.mark.parametrize('damage', ['flip', 'cut', 'empty', 'longer', 'other'])
def test_damage_is_noticed_and_made_good(tmp_path, said, damage):
    store = Store(tmp_path, 1000, 'the store')
    store.put('a/one', b'first content')
    store.put('a/two', b'second content')
    path = tmp_path / 'a/one'
    raw = path.read_bytes()
    path.write_bytes(
        dict(
            flip=raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:],
            cut=raw[:-1],
            empty=b'',
            longer=raw + b'x',
            other=(tmp_path / 'a/two').read_bytes(),
        )[damage]
    )
    assert store.get('a/one') is None
    assert len(said) == 1
    assert f'the store: {path} is damaged (its checksum is another); it is made anew' in said[0]
    assert not path.exists()
    store.put('a/one', b'first content')
    assert bytes(store.get('a/one')) == b'first content'
    assert len(said) == 1


def test_it_stays_within_its_limit_and_says_so_once(tmp_path, said):
    (tmp_path / 'before').write_bytes(bytes(100))
    store = Store(tmp_path, 100 + 2 * (DIGEST + 50) + 10, 'the store')
    for index in range(5):
        store.put(f'{index}', bytes(50))
    assert [store.get(f'{index}') is not None for index in range(5)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert held(tmp_path) <= store.limit
    assert said == ['the store: its limit of 242 bytes is reached; nothing more is written']


def test_ranks_share_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, 'world_size', lambda: 2)
    stores = [Store(tmp_path, 4 * (DIGEST + 50), 'the store') for _ in range(2)]
    for rank, store in enumerate(stores):
        store.put(f'{rank}/0', bytes(50))
    for rank, store in enumerate(stores):
        for index in range(1, 5):
            store.put(f'{rank}/{index}', bytes(50))
    assert held(tmp_path) <= stores[0].limit


def test_a_full_disk_ends_the_writing_and_nothing_else(tmp_path, said, monkeypatch):
    store = Store(tmp_path, 1000, 'the store')
    store.put('one', b'content')

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', full)
    store.put('two', b'content')
    store.put('three', b'content')
    assert said == [
        'the store: cannot be written into (No space left on device); nothing more is written'
    ]
    assert bytes(store.get('one')) == b'content'
    assert [path.name for path in tmp_path.rglob('*')] == ['one']
