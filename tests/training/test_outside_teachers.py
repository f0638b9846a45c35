"""Training with teachers of other packages, by a real Runner."""

import helpers as h
import pytest
import torch
from mmengine.runner import Runner

import mmkd
from mmkd.files.checkpoints import read_checkpoint
from mmkd.training.method_optimizers import bare


@pytest.mark.parametrize('method', ['pkd', 'dpk'])
def test_a_vit_teaches_a_detector_whose_checkpoints_stay_plain(shapes, tmp_path, method):
    h.outside('timm')
    cfg = h.runner_config('rtmdet', tmp_path / 'work', shapes)
    cfg.train_cfg.max_epochs = 1
    options = dict(dpk=dict(size='light')) if method == 'dpk' else {}
    distilled = mmkd.distill(cfg, method, 'timm::test_vit', 'untrained', options)
    runner = Runner.from_cfg(distilled)
    teacher = bare(runner).distillation.teachers['teacher'].model
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    runner.train()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    state = read_checkpoint(tmp_path / 'work/epoch_1.pth')['state_dict']
    plain = {name for name in state if not name.startswith('distillation.')}
    assert plain == set(h.build(dict(cfg.model, _scope_='mmdet')).state_dict())
    assert not any(name.startswith('distillation.teachers') for name in state)
