import copy
import pickle
import random

import numpy as np
import pytest
import torch
from hostile import Hostile
from mmengine.logging import HistoryBuffer
from torch import nn

from mmkd import InputError
from mmkd.files.checkpoints import (
    classes_of,
    hash_of,
    load_fitting,
    load_weights,
    read_checkpoint,
    weights_of,
)


@pytest.mark.parametrize('share', [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_named(tmp_path, share):
    file = tmp_path / 'c.pth'
    torch.save(dict(state_dict=dict(weight=torch.ones(5000))), file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r'c\.pth: truncated or damaged'):
        read_checkpoint(file)


def test_other_wrong_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r'nowhere\.pth: no such file'):
        read_checkpoint(tmp_path / 'nowhere.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(InputError, match=r'holds a list'):
        read_checkpoint(tmp_path / 'list.pth')
    (tmp_path / 'text.pth').write_text('hello')
    with pytest.raises(InputError, match=r'text\.pth: truncated or damaged'):
        read_checkpoint(tmp_path / 'text.pth')
    (tmp_path / 'pickle.pth').write_bytes(pickle.dumps({'a': 1}))
    with pytest.raises(InputError, match=r'pickle\.pth'):
        read_checkpoint(tmp_path / 'pickle.pth')


def test_weights_come_under_plain_names():
    state = {'module.a': torch.ones(1), 'distillation.x': torch.ones(1), 'note': 'text'}
    assert list(weights_of(dict(state_dict=state))) == ['a']
    assert list(weights_of(state)) == ['a']


def test_every_disagreement_is_reported_with_counts():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    weights = {
        '0.weight': torch.full((2, 2), 7.0),
        '0.bias': torch.zeros(3),
        '1.weight': torch.ones(2),
        '1.bias': torch.ones(2),
        'head.weight': torch.ones(1),
    }
    report = load_weights(net, weights)
    assert (report.loaded, report.clean) == (3, False)
    assert report.missing == ['1.running_mean', '1.running_var']
    assert report.unexpected == ['head.weight']
    assert report.misshaped == ['0.bias: (3,) in the file, (2,) in the model']
    assert '2 missing' in str(report)
    assert '1 unexpected (head.weight)' in str(report)
    assert (net[0].weight == 7).all()


def test_old_checkpoints_without_batch_counters_are_clean():
    net = nn.BatchNorm1d(2)
    state = {k: v for k, v in net.state_dict().items() if k != 'num_batches_tracked'}
    assert load_weights(net, state).clean


# -- wrong bytes -----------------------------------------------------------------------------------


def training(path):
    """A checkpoint as a short training leaves it."""
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    history = HistoryBuffer()
    history.update(1.5)
    return dict(
        state_dict=net.state_dict(),
        optimizer=optimizer.state_dict(),
        message_hub=dict(log_scalars=dict(loss=history), runtime_info=dict(lr=np.float64(0.1))),
        meta=dict(epoch=1, dataset_meta=dict(classes=('a', 'b'))),
    )


def mutated(content, draw):
    """Cut, or with wrong, missing, doubled bytes."""
    kind, place = draw.randrange(5), draw.randrange(len(content))
    if kind == 0:
        return content[:place]
    length = draw.choice((1, 1, 2, 8, 64))
    middle = draw.randbytes(length) if kind < 4 else content[place : place + length] * 2
    return content[:place] + middle + content[place + length :]


@pytest.mark.parametrize('archive', [True, False], ids=['archive', 'legacy'])
@pytest.mark.parametrize('hostile', [False, True], ids=['plain', 'hostile'])
def test_wrong_bytes_anywhere_are_read_or_named(archive, hostile, tmp_path):
    file, draw, trap = tmp_path / 'c.pth', random.Random(7), tmp_path / 'ran'
    content = training(file)
    if hostile:
        content['extra'] = Hostile(trap)
    torch.save(content, file, _use_new_zipfile_serialization=archive)
    whole, answers = file.read_bytes(), 0
    end = whole.find(b'PK\x07\x08') + 200 if archive else len(whole)  # the pickle, then the rest
    for number in range(150):
        limit = end if number % 2 else len(whole)
        file.write_bytes(mutated(whole[:limit], draw) + whole[limit:])
        try:
            classes_of(read_checkpoint(file))
        except InputError as error:
            answers += str(file) in str(error)
        assert not trap.exists(), number
    assert answers > 60


class Rebuilding(nn.Linear):
    """Makes a table anew whenever weights come, as Swin V2 does, and resizes its positions."""

    def __init__(self, size):
        super().__init__(2, 2)
        self.register_buffer('table', torch.ones(size))
        self.positions = nn.Parameter(torch.zeros(size))
        self._register_load_state_dict_pre_hook(self._prepare)

    def _prepare(self, state, prefix, *args):
        state.pop(f'{prefix}table', None)
        own, given = self.positions, state.get(f'{prefix}positions')
        if given is not None and len(given) != len(own):
            state[f'{prefix}positions'] = given[:1].expand(len(own)).clone()


@pytest.mark.parametrize('size', [2, 3])
def test_what_a_model_rebuilds_or_resizes_itself_is_not_missing(size):
    weights = Rebuilding(size).state_dict()
    assert load_fitting(Rebuilding(2), weights, 'c.pth').clean
    del weights['table']
    assert load_fitting(Rebuilding(2), weights, 'c.pth').clean
    del weights['positions']
    with pytest.raises(InputError, match=r'c\.pth: does not fit .* 1 missing \(positions\)'):
        load_fitting(Rebuilding(2), weights, 'c.pth')


def test_swin_v2_loads_its_own_checkpoint_of_another_window():
    from mmpretrain.models import SwinTransformerV2

    arch = dict(
        embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], extra_norm_every_n_blocks=0
    )
    nets = [SwinTransformerV2(arch, img_size=64, window_size=window) for window in (4, 8)]
    assert load_fitting(nets[0], nets[1].state_dict(), 'c.pth').clean


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
def test_a_hash_sees_every_value_and_every_name(dtype):
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to(dtype)
    first = hash_of(net)
    assert hash_of(copy.deepcopy(net)) == first
    found = {first}
    for value in net.state_dict().values():  # the counter of batches too
        kept = value.clone()
        value.view(-1)[-1] += 1
        found.add(hash_of(net))
        value.copy_(kept)
    assert len(found) == 1 + len(net.state_dict())
    assert hash_of(net) == first
    assert hash_of(nn.Sequential(*net, nn.ReLU())) == first
    assert hash_of(nn.Sequential(nn.ReLU(), *net)) != first
