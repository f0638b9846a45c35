import pickle

import numpy as np
import pytest
import torch
from hostile import Hostile
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleLR
from torch import nn

from mmkd import InputError
from mmkd.files.checkpoints import classes_of, load_weights, read_checkpoint, weights_of


def mmengine_like():
    history = HistoryBuffer()
    history.update(1.5)
    return dict(
        state_dict=dict(weight=torch.ones(2)),
        message_hub=dict(log_scalars=dict(loss=history)),
        meta=dict(epoch=1, dataset_meta=dict(classes=('a', 'b'), palette=[(1, 2, 3)])),
        optimizer=dict(lr=np.float64(0.1), counts=np.arange(3), flags=np.array([True])),
    )


def test_what_mmengine_writes_is_read_without_trust(tmp_path):
    torch.save(mmengine_like(), tmp_path / 'c.pth')
    content = read_checkpoint(tmp_path / 'c.pth')
    assert torch.equal(content['state_dict']['weight'], torch.ones(2))
    assert content['message_hub']['log_scalars']['loss'].current() == 1.5
    assert content['optimizer']['counts'].tolist() == [0, 1, 2]
    assert classes_of(content) == ('a', 'b')


def test_the_code_of_a_hostile_file_does_not_run(tmp_path):
    trap, file = tmp_path / 'ran', tmp_path / 'hostile.pth'
    torch.save(dict(state_dict=dict(weight=torch.ones(1)), extra=Hostile(trap)), file)
    with pytest.raises(InputError, match=r'hostile\.pth: wants to run io\.open .*--trust-checkpoint'):
        read_checkpoint(file)
    assert not trap.exists()
    read_checkpoint(file, trust=True)
    assert trap.exists()


class Reaches:
    """Asks ``getattr`` for something that is no log statistic."""

    def __reduce__(self):
        return (getattr, (HistoryBuffer, '__init__'))


def test_getattr_is_not_a_way_in(tmp_path):
    torch.save(dict(extra=Reaches()), tmp_path / 'c.pth')
    with pytest.raises(InputError, match='unsupported use of getattr'):
        read_checkpoint(tmp_path / 'c.pth')


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


def test_the_state_of_a_one_cycle_schedule_is_read(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = OneCycleLR(optimizer, eta_max=1.0, total_steps=10)
    torch.save({'state_dict': {}, 'param_schedulers': [schedule.state_dict()]}, tmp_path / 'a.pth')
    state = read_checkpoint(tmp_path / 'a.pth')['param_schedulers'][0]
    assert state['anneal_func'](0.0, 1.0, 0.5) == pytest.approx(0.5)
    assert state['anneal_func'] is schedule.state_dict()['anneal_func']
