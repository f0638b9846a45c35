import os
import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import helpers as h
import numpy as np
import pytest
import torch
from hostile import HARMLESS_IF_TRUSTED, PAYLOADS, Call
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleLR
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint, get_torch_safe_globals

import mmkd
from mmkd import InputError
from mmkd.files.checkpoints import read_checkpoint
from mmkd.files.safety import FORCE, HARMLESS, UNFORCE, protect, trusts

ROOT = Path(__file__).parents[2]


def by_force(path):
    """As somebody's code does that does not care."""
    return torch.load(path, map_location='cpu', weights_only=False)


READERS = [read_checkpoint, _load_checkpoint, by_force]


@pytest.mark.parametrize('read', READERS, ids=lambda read: read.__name__)
@pytest.mark.parametrize('payload', PAYLOADS)
def test_no_reader_runs_the_code_of_a_file_unless_it_is_trusted(payload, read, tmp_path):
    trap, file = tmp_path / 'ran', tmp_path / 'hostile.pth'
    file.write_bytes(PAYLOADS[payload](trap))
    with pytest.raises(Exception, match=r'.') as error:
        read(str(file))
    assert not trap.exists()
    assert read is by_force or isinstance(error.value, InputError)
    with mmkd.trusting(), suppress(Exception if read is by_force else InputError):
        read(str(file))  # what its code returned may be no checkpoint
    assert trap.exists() or payload in HARMLESS_IF_TRUSTED


@pytest.mark.parametrize('payload', PAYLOADS)
def test_an_attack_is_called_what_it_is(payload, tmp_path):
    file = tmp_path / 'hostile.pth'
    file.write_bytes(PAYLOADS[payload](tmp_path / 'ran'))
    message = h.message_of(read_checkpoint, file)
    words = {
        'program': 'TorchScript archive, which holds a program',
        'tar': 'tar archive .* --trust-checkpoint',
        'getattr': 'unsupported use of getattr.* --trust-checkpoint',
        'exec': r'wants to run builtins\.exec while .* --trust-checkpoint',
    }
    with pytest.raises(InputError, match=words.get(payload, r'wants to run io\.open.*trust')):
        read_checkpoint(file)
    assert 'damaged' not in message


def test_a_function_has_the_name_that_its_author_knows(tmp_path):
    torch.save(dict(a=Call(os.system, 'true'), b=Call(exec, '')), tmp_path / 'c.pth')
    assert 'wants to run builtins.exec, os.system while' in h.message_of(
        read_checkpoint, tmp_path / 'c.pth'
    )


def test_importing_is_enough_whatever_the_environment_says(tmp_path):
    file = tmp_path / 'hostile.pth'
    file.write_bytes(PAYLOADS['archive'](tmp_path / 'ran'))
    code = f'import mmkd, torch; torch.load({str(file)!r}, weights_only=False)'
    switches = {FORCE: '0', UNFORCE: '1', 'PYTHONPATH': str(ROOT)}
    result = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, **switches}, capture_output=True, text=True,
    )  # fmt: skip
    assert 'UnpicklingError' in result.stderr
    assert not (tmp_path / 'ran').exists()


def test_trust_ends_with_its_scope():
    with suppress(KeyError), mmkd.trusting():
        with mmkd.trusting(False):
            assert trusts()
        assert FORCE not in os.environ
        protect()
        assert FORCE not in os.environ
        raise KeyError
    assert os.environ[FORCE] == '1'
    assert not trusts()


# -- what mmengine writes --------------------------------------------------------------------------


def mmengine_like():
    history = HistoryBuffer()
    history.update(1.5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    return dict(
        state_dict=dict(weight=torch.ones(2)),
        message_hub=dict(log_scalars=dict(loss=history)),
        meta=dict(epoch=1, dataset_meta=dict(classes=('a', 'b'), palette=[(1, 2, 3)])),
        optimizer=dict(lr=np.float64(0.1), counts=np.arange(3), part=slice(0, 2)),
        schedule=OneCycleLR(optimizer, eta_max=1.0, total_steps=10).state_dict(),
        big=np.arange(2, dtype='>i2'),
        numbers=[np.ones((2, 1), code) for code in np.typecodes['AllInteger'] + 'efd?'],
        kind=np.dtype('float16'),
    )


@pytest.mark.parametrize('read', READERS, ids=lambda read: read.__name__)
def test_what_mmengine_writes_is_read_by_every_reader(read, tmp_path):
    written = mmengine_like()
    torch.save(written, tmp_path / 'c.pth')
    for _ in range(2):
        with torch.serialization.safe_globals([HistoryBuffer, np.ndarray, np.dtype]):
            pass  # takes down what it put up, and must leave ours alone
        content = read(str(tmp_path / 'c.pth'))
        history = content['message_hub']['log_scalars']['loss']
        assert (history.current(), history.mean()) == (1.5, 1.5)
        assert content['optimizer']['lr'] == 0.1
        assert content['optimizer']['counts'].tolist() == [0, 1, 2]
        assert content['optimizer']['part'] == slice(0, 2)
        assert content['schedule']['anneal_func'](0.0, 1.0, 0.5) == pytest.approx(0.5)
        assert content['big'].tolist() == [0, 1]
        assert content['kind'] == np.dtype('float16')
        pairs = zip(content['numbers'], written['numbers'])
        assert all((a == b).all() and a.dtype == b.dtype for a, b in pairs)


def test_mmengines_own_list_is_empty():
    """It has ``getattr``, from which a file reaches every function."""
    assert get_torch_safe_globals() == []


def test_a_plain_training_of_mmengine_is_resumed(shapes, tmp_path):
    cfg = h.runner_config('classifier', tmp_path, shapes)
    cfg.train_cfg.max_epochs = 1
    Runner.from_cfg(cfg).train()
    cfg.train_cfg.max_epochs, cfg.resume = 2, True
    cfg.load_from = str(tmp_path / 'epoch_1.pth')
    cfg.experiment_name = 'second'
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert (runner.epoch, runner.iter) == (2, 2 * len(runner.train_dataloader))


def test_pretrained_weights_are_read_from_what_mmengine_writes(tmp_path):
    source = h.build(h.classifier())
    torch.save({**mmengine_like(), 'state_dict': source.state_dict()}, tmp_path / 'c.pth')
    config = h.classifier()
    config.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'c.pth'))
    model = h.build(config)
    assert torch.equal(model.backbone.conv1.weight, source.backbone.conv1.weight)


# -- what NumPy could be made to do ----------------------------------------------------------------


def test_arrays_and_types_of_objects_are_refused(tmp_path):
    odd = Call(
        np.dtype, 'f8', False, True, state=(3, '<', (np.dtype('f4'), (2,)), None, None, 8, 8, 0)
    )
    array = Call(np._core.multiarray._reconstruct, np.ndarray, (0,), b'b')
    array.reduced += ((1, (1,), odd, False, b'A' * 8),)
    scalar = Call(np._core.multiarray.scalar, odd, b'A' * 8)
    for extra, words in {
        Call(np.ndarray, (1,), odd, bytearray(b'A' * 8)): 'unsupported array',
        Call(np.dtype, 'O'): 'unsupported NumPy type',
        scalar: 'unsupported NumPy number',
        array: 'array of dtype',
    }.items():
        torch.save(dict(extra=extra), tmp_path / 'c.pth')
        with pytest.raises(InputError, match=words):
            read_checkpoint(tmp_path / 'c.pth')


def test_what_can_be_called_has_a_name_in_files_and_does_no_harm():
    """Types without a name there can only be the type of something that a stand-in made."""
    called = [entry for entry, name in HARMLESS if '.' in name]
    assert not {getattr, np.ndarray, np.dtype, pickle.loads} & set(called)
