"""Configs and models of any toolbox, by file or by name."""

import helpers as h
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmkd.errors import InputError
from mmkd.family.building import (
    build_model,
    config_path,
    is_distiller,
    load_config,
    model_config,
    zoo_checkpoint,
)

RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'


def test_a_config_that_is_given_is_copied():
    given = Config(dict(model=dict(type='X')))
    load_config(given).model.type = 'Y'
    assert given.model.type == 'X'


def test_a_name_without_its_suffix_serves():
    assert config_path(RETINANET.removesuffix('.py')) == config_path(RETINANET)
    assert config_path(RETINANET).is_file()
    assert str(config_path('here/mine.py')) == 'here/mine.py'


@pytest.mark.parametrize(
    ('name', 'content', 'words'),
    [
        ('c.py', None, r'config .*c\.py: no such file'),
        ('c.py', "_base_ = ['gone.py']", r'config .*c\.py: no such file \(.*gone\.py'),
        ('c.json', '{"model": ', r'config .*c\.json: cannot be read \('),
    ],
)
def test_a_config_that_cannot_be_read_is_named(name, content, words, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words):
        load_config(tmp_path / name)


def test_the_model_zoo_has_the_weights_of_its_configs():
    source = zoo_checkpoint('mmdet::retinanet/retinanet_r101_fpn_2x_coco.py')
    assert source.startswith('https://')
    assert source.endswith('retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth')
    assert zoo_checkpoint('mmdet::retinanet/retinanet_r101_fpn_crop640-50e_coco.py') is None
    assert zoo_checkpoint('teacher.py') is None
    assert zoo_checkpoint(Config(dict(model=dict(type='X')))) is None


def test_the_model_of_a_config_is_complete():
    cfg = Config(
        dict(model=dict(type='X'), data_preprocessor=dict(mean=[0]), default_scope='mmdet')
    )
    found = model_config(cfg)
    assert found == dict(type='X', data_preprocessor=dict(mean=[0]), _scope_='mmdet')
    found.data_preprocessor.mean.append(1)
    assert cfg.data_preprocessor.mean == [0]


def test_what_a_model_says_itself_comes_first():
    model = dict(type='X', data_preprocessor=dict(mean=[1]), _scope_='mmseg')
    cfg = Config(dict(model=model, data_preprocessor=dict(mean=[0]), default_scope='mmdet'))
    assert model_config(cfg) == model


@pytest.mark.parametrize('name', ['mmkd.Distiller', 'Distiller'])
def test_the_model_of_a_distillation_is_its_student(name):
    cfg = Config(dict(model=dict(type=name, student=dict(type='X')), default_scope='mmdet'))
    assert is_distiller(cfg.model)
    assert model_config(cfg) == dict(type='X', _scope_='mmdet')
    assert not is_distiller(cfg.model.student)
    assert not is_distiller('Distiller')


def test_names_are_looked_up_in_the_models_own_scope_and_the_running_one_stays():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = build_model(h.segmentor())
        assert DefaultScope.get_current_instance().scope_name == 'mmpretrain'
    assert type(model).__module__.startswith('mmseg.')


def test_a_config_is_built_as_often_as_one_likes():
    config = h.classifier()
    before = config.to_dict()
    first, second = build_model(config), build_model(config)
    assert config.to_dict() == before
    assert first.state_dict().keys() == second.state_dict().keys()


def test_a_config_that_stands_on_one_of_ours_finds_the_toolboxes_names(tmp_path):
    base = "_base_ = 'mmkd::shapes/rtmdet_pico_shapes.py'\n"
    part = "model = dict(type='RTMDet', backbone={{_base_.model.backbone}})\n"
    (tmp_path / 'own.py').write_text(base)
    (tmp_path / 'part.py').write_text(base + part)
    for name in ('own.py', 'part.py'):
        cfg = load_config(tmp_path / name)
        assert "_scope_='mmkd'" not in cfg.pretty_text
        assert cfg.visualizer.type == 'DetLocalVisualizer'
