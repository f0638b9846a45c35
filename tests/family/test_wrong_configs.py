"""Configs that cannot be read and models that cannot be built are answered in one line."""

import helpers as h
import pytest
from mmengine.config import Config

from mmkd.family.building import build_model, load_config


@pytest.mark.parametrize(
    ('name', 'text', 'words'),
    [
        ('a.pth', '', ['no config', '.py, .json']),
        ('a.py', '', ['model=None', "model=dict(type='...'"]),
        ('a.py', 'train_cfg = dict()', ['model=None']),
        ('a.py', 'model = 3', ['model=3']),
        ('a.py', 'model = dict(backbone=dict())', ["model={'backbone'"]),
        ('a.py', 'model = dict(', ['cannot be read (SyntaxError']),
        ('a.py', 'model = gone', ['cannot be read (NameError']),
        ('a.py', 'import gone_package', ['model=None']),
        ('a.py', "_base_ = 'gone.py'", ['no such file']),
        ('a.py', "_base_ = 'mmdett::gone.py'", ['cannot be read']),
        ('a.json', '{', ['cannot be read']),
    ],
)
def test_a_config_that_is_none_is_answered(name, text, words, tmp_path):
    (tmp_path / name).write_text(text)
    message = h.message_of(load_config, tmp_path / name)
    assert message.startswith(f'config {tmp_path / name}: ')
    assert all(word in message for word in words)


def test_names_of_packages_and_files_that_are_not_there_are_answered(tmp_path):
    assert 'config mmdet::gone/a.py: no such file' in h.message_of(load_config, 'mmdet::gone/a.py')
    words = "config mmdett::a.py: unknown package 'mmdett'; nearest: 'mmdet'"
    assert words in h.message_of(load_config, 'mmdett::a.py')
    assert f'config {tmp_path}: ' in h.message_of(load_config, tmp_path)
    assert 'config given: model=None' in h.message_of(load_config, Config())


def test_a_config_object_is_copied():
    cfg = Config(dict(model=dict(type='X')))
    copy = load_config(cfg)
    copy.model.type = 'Y'
    assert cfg.model.type == 'X'


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(type='RetinaNett'), 'RetinaNett is not in the'),
        (dict(necck=1), 'TypeError'),
        (dict(backbone=3), 'cannot be built'),
        (
            dict(bbox_head=dict(type='RetinaHead', num_classes='abc', in_channels=16)),
            'cannot be built',
        ),
    ],
)
def test_a_model_that_cannot_be_built_is_answered(change, words):
    message = h.message_of(build_model, {**h.retinanet(), **change})
    assert message.startswith('model RetinaNet')
    assert words in message
