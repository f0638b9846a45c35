"""What is looked at before a Runner is built."""

import helpers as h
import pytest
import torch

from mmkd.commands.train import train, training_config
from mmkd.family.building import build_model


@pytest.fixture
def config(shapes, tmp_path):
    return h.runner_config('classifier', tmp_path / 'work', shapes)


@pytest.mark.parametrize(
    ('key', 'value', 'words'),
    [
        (
            'train_dataloader.batch_size',
            0,
            'train_dataloader.batch_size=0; needed: a whole number >= 1',
        ),
        ('train_dataloader.batch_size', 'two', "batch_size='two'"),
        ('val_dataloader.batch_size', -4, 'val_dataloader.batch_size=-4'),
        ('train_dataloader.num_workers', -1, 'num_workers=-1; needed: a whole number >= 0'),
        ('train_dataloader', 'coco', "train_dataloader='coco'; needed: a dict with dataset=..."),
        ('train_dataloader.dataset', 'coco', "train_dataloader.dataset='coco'"),
        ('train_cfg.max_epochs', 0, 'train_cfg.max_epochs=0'),
        ('train_cfg.max_epochs', 'ten', "max_epochs='ten'"),
        ('train_cfg.val_interval', 0, 'val_interval=0'),
        ('optim_wrapper', None, 'optim_wrapper: missing in the config; needed: train_dataloader, '),
        ('optim_wrapper', 'SGD', "optim_wrapper='SGD'"),
        ('optim_wrapper.optimizer', 'SGD', "optim_wrapper.optimizer='SGD'"),
        ('optim_wrapper.optimizer.type', 'SDG', "optimizer.type='SDG'; nearest: 'SGD'"),
        ('val_evaluator', None, 'val_evaluator: missing in the config'),
        (
            'work_dir',
            '/dev/null',
            'work_dir /dev/null: cannot be written into (/dev/null is no folder)',
        ),
        ('work_dir', '/dev/null/run', 'cannot be written into (/dev/null is no folder)'),
    ],
)
def test_what_a_loop_cannot_run_with_is_named(key, value, words, config):
    assert words in h.message_of(lambda: training_config(config, cfg_options={key: value}))


def test_a_file_of_weights_is_nothing_to_resume_from(config, tmp_path):
    weights = build_model(dict(config.model, _scope_='mmpretrain')).state_dict()
    for content in (weights, dict(state_dict=weights, meta=dict(epoch=1))):
        torch.save(content, tmp_path / 'teacher.pth')
        text = h.message_of(lambda: training_config(config, resume=str(tmp_path / 'teacher.pth')))
        assert text.startswith(
            f'--resume {tmp_path / "teacher.pth"}: no checkpoint of a training: '
        )
        assert 'optimizer, message_hub' in text
        assert f'load_from={tmp_path / "teacher.pth"}' in text


def test_a_training_is_resumed_with_its_own_model_only(config, tmp_path):
    config.train_cfg.max_epochs = 1
    train(training_config(config))
    config.model.backbone.base_channels, config.model.head.in_channels = 16, 128
    resumed = training_config(config, resume=str(tmp_path / 'work/epoch_1.pth'))
    assert 'epoch_1.pth: does not fit the config' in h.message_of(train, resumed)


def test_weights_to_start_from_may_fit_in_part_but_not_at_all_is_an_error(config, tmp_path):
    config.train_cfg.max_epochs = 1
    other = build_model(dict(h.retinanet(), _scope_='mmdet')).state_dict()
    torch.save(other, tmp_path / 'detector.pth')
    config.load_from = str(tmp_path / 'detector.pth')
    train(training_config(config))
    torch.save({f'model.{k}': v for k, v in other.items()}, tmp_path / 'detector.pth')
    assert 'nothing in it is of this model' in h.message_of(train, training_config(config))
