"""From a config to a Runner: files looked at first, hooks added once, nothing loaded that could run."""

import helpers as h
import pytest
import torch
from hostile import Hostile
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import load_checkpoint

from mmkd.commands.runner import build_runner, check_files, default_work_dir, register_hooks
from mmkd.errors import InputError
from mmkd.files.safety import FORCE


@pytest.fixture
def config(shapes, tmp_path):
    """A plain config whose data is there."""
    return h.runner_config('retinanet', tmp_path / 'work', shapes)


def test_after_the_runner_is_built_no_load_executes_code(config, tmp_path, monkeypatch):
    monkeypatch.setenv(FORCE, '0')
    build_runner(config)
    torch.save(dict(extra=Hostile(tmp_path / 'ran')), tmp_path / 'h.pth')
    with pytest.raises(InputError, match='wants to run'):
        load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / 'h.pth'))
    assert not (tmp_path / 'ran').exists()


def test_hooks_are_added_where_the_config_has_none(config):
    class Mine(Hook):
        """A project's own."""

    class Special(Mine):
        """One that is a kind of it."""

    runner = build_runner(config)
    runner.register_hook(Special())
    before = list(runner.hooks)
    register_hooks(runner, Mine)
    assert runner.hooks == before
    register_hooks(runner, Special, Hook)
    assert runner.hooks == before
    other = build_runner(config)
    count = len(other.hooks)
    register_hooks(other, Mine, Mine)
    assert [type(hook) for hook in other.hooks if isinstance(hook, Mine)] == [Mine]
    assert len(other.hooks) == count + 1
    register_hooks(object(), Mine)  # another kind of runner is left alone


def test_data_elsewhere_is_not_looked_for(config):
    config.train_dataloader.dataset.update(data_root='s3://bucket/', backend_args=dict(backend='x'))
    check_files(config, ('train',))


def test_a_checkpoint_that_is_missing_or_hostile_is_answered(config, tmp_path):
    config.load_from = str(tmp_path / 'c.pth')
    with pytest.raises(InputError, match=r'c\.pth: no such file'):
        check_files(config, ('train',))
    torch.save(dict(state_dict={}, extra=Hostile(tmp_path / 'ran')), tmp_path / 'c.pth')
    with pytest.raises(InputError, match='wants to run'):
        check_files(config, ('train',))
    assert not (tmp_path / 'ran').exists()
    check_files(config, ('train',), trust_checkpoint=True)
    assert (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
    ('resume', 'given', 'taken'),
    [(True, None, 7), (True, 3, 3), (False, None, None)],
    ids=['none', 'own', 'weights alone'],
)
def test_a_resumed_training_without_a_seed_takes_the_checkpoints(
    resume, given, taken, config, tmp_path
):
    content = dict(state_dict={}, optimizer={}, message_hub={}, meta=dict(seed=7, epoch=1, iter=2))
    torch.save(content, tmp_path / 'c.pth')
    config.load_from, config.resume = str(tmp_path / 'c.pth'), resume
    config.randomness = dict(seed=given, deterministic=True)
    check_files(config, ('train',))
    assert config.randomness == dict(seed=taken, deterministic=True)


@pytest.mark.parametrize(
    ('config', 'method', 'folder'),
    [
        ('here/mine.py', None, 'work_dirs/mine'),
        ('here/mine.py', 'pkd+kd', 'work_dirs/mine_pkd+kd'),
        ('mmdet::gfl/gfl_r50_fpn_1x_coco.py', 'kd', 'work_dirs/gfl_r50_fpn_1x_coco_kd'),
        (Config(dict(a=1), cfg_text='', filename=__file__), None, 'work_dirs/test_runner'),
        (Config(dict(a=1)), None, 'work_dirs/config'),
    ],
)
def test_files_go_where_config_and_method_say(config, method, folder):
    assert default_work_dir(config, method) == folder
