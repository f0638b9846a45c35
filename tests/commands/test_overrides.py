"""Overrides of a config: what fits is taken, what is unknown is said, what does not fit is answered."""

import pytest
from helpers import message_of
from mmengine.config import Config

import mmkd.commands.overrides
from mmkd import InputError
from mmkd.commands.overrides import nested, override, unknown_part


def config():
    return Config(
        dict(
            model=dict(type='X', heads=[dict(a=1)]),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        )
    )


@pytest.mark.parametrize(
    ('key', 'found'),
    [
        ('optim_wrapper.optimizer.lr', None),
        ('optim_wraper.optimizer.lr', ('optim_wraper', ['model', 'optim_wrapper'])),
        ('optim_wrapper.optimizer.lrr', ('optim_wrapper.optimizer.lrr', ['type', 'lr'])),
        ('model.heads.0.a', None),
    ],
)
def test_the_first_part_that_is_unknown_is_found(key, found):
    assert unknown_part(config(), key) == found


def test_a_new_key_is_taken_and_said_with_the_nearest(monkeypatch):
    said = []
    monkeypatch.setattr(mmkd.commands.overrides, 'print_log', lambda text, *args: said.append(text))
    cfg = config()
    override(cfg, {'optim_wrapper.optimizer.lr': 0.2, 'model.heads.0.a': 2})
    assert said == []
    override(cfg, {'optim_wraper.optimizer.lr': 0.3})
    assert cfg.optim_wraper.optimizer.lr == 0.3
    assert cfg.optim_wrapper.optimizer.lr == 0.2
    (line,) = said
    assert "has no 'optim_wraper'" in line
    assert "nearest: 'optim_wrapper'" in line


@pytest.mark.parametrize(
    'key', ['model.heads.7.a', 'model.heads.x', 'optim_wrapper.optimizer.lr.x.y']
)
def test_what_does_not_fit_is_answered(key):
    assert f'--cfg-options {key}=1: does not fit the config' in message_of(
        override, config(), {key: 1}
    )


def test_a_model_that_is_replaced_by_none_is_answered():
    with pytest.raises(InputError, match='model=3'):
        override(config(), {'model': 3})


def test_nested_options():
    assert nested({'a.b.c': 1, 'a.d': 2, 'e': 3}) == {'a': {'b': {'c': 1}, 'd': 2}, 'e': 3}


def test_an_option_that_is_a_value_and_a_group_is_answered():
    assert 'pkd=3 is given as well' in message_of(nested, {'pkd': 3, 'pkd.weight': 2.0})
    assert 'is given as well' in message_of(nested, {'pkd.weight': 2.0, 'pkd': 3})
