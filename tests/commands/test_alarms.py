"""What is set so that distillation can hardly help is said once, with numbers and a cure."""

import json

import helpers as h
import pytest
from mmengine.logging import MessageHub

from mmkd.commands import alarms
from mmkd.commands.alarms import AlarmHook, rate_alarm, share_alarm
from mmkd.commands.train import train, training_config


def settings(base=16, enable=False, **wrapper):
    scaling = dict(base_batch_size=base, enable=enable)
    return dict(auto_scale_lr=scaling, optim_wrapper=dict(optimizer=dict(lr=0.02), **wrapper))


@pytest.mark.parametrize(
    ('cfg', 'batch', 'ranks', 'words'),
    [
        (settings(), 4, 1, 'these have 4; by the linear rule 0.005: --auto-scale-lr'),
        (settings(), 4, 2, 'these have 8 (4 x 2 ranks); by the linear rule 0.01: --auto-scale-lr'),
        (settings(accumulative_counts=2), 4, 1, 'these have 8 (4 x 2 accumulated); by the linear rule 0.01: '
         '--cfg-options optim_wrapper.optimizer.lr=0.01'),
        (settings(), 16, 1, None),
        (settings(), 8, 2, None),
        (settings(accumulative_counts=4), 4, 1, None),
        (settings(enable=True), 4, 1, None),
        (settings(base=None), 4, 1, None),
        (dict(optim_wrapper=dict(optimizer=dict(lr=0.02))), 4, 1, None),
        (settings(), None, 1, None),
    ],
)  # fmt: skip
def test_a_learning_rate_for_other_batches(cfg, batch, ranks, words):
    said = rate_alarm(cfg, batch, ranks)
    assert (said is None) == (words is None)
    assert words is None or words in said
    assert said is None or 'lr=0.02 is for batches of 16 (auto_scale_lr.base_batch_size)' in said


def method_of(weight=6.0, kind='PKD'):
    own = dict(type=f'mmkd.{kind}') if weight is None else dict(type=f'mmkd.{kind}', weight=weight)
    guide = None if kind == 'FRSKD' else h.classifier()
    return h.distiller(h.classifier(), guide, own=own).distillation.methods['own']


RAMP = dict(type='Ramp', value=6.0, until=0.5)


@pytest.mark.parametrize(
    ('method', 'share', 'words'),
    [
        (lambda: method_of(), 0.004, '0.40% of the gradient at its taps is its own'),
        (lambda: method_of(), 0.004, '124 times the present one would make it 33%'),
        (lambda: method_of(kind='KD'), 0.95, '0.158 times the present one would make it 75%'),
        (lambda: method_of(), 0.96, 'the student hardly learns its task any more'),
        (lambda: method_of(), 0.96, '--distill-options own.weight=auto'),
        (lambda: method_of(), 0.5, None),
        (lambda: method_of('auto'), 0.95, None),  # what was asked for
        (lambda: method_of(RAMP), 0.004, None),  # it has just begun
        (lambda: method_of(RAMP), 0.96, 'hardly learns'),
        (lambda: method_of(None, 'FRSKD'), 0.004, None),  # its terms have ramps
    ],
)
def test_a_share_outside_of_what_can_help(method, share, words):
    said = share_alarm('own', method(), share, 'classification')
    assert (said is None) == (words is None)
    assert words is None or words in said


def test_a_ramp_that_is_done_is_judged():
    hub = MessageHub.get_current_instance()
    hub.update_info('max_iters', 10), hub.update_info('iter', 9)
    said = share_alarm('own', method_of(RAMP), 0.004, 'classification')
    hub.update_info('max_iters', 0)
    assert said.startswith('own: 0.40%')


@pytest.mark.parametrize(
    ('weight', 'words'), [(1e-6, 'next to nothing'), (1e6, 'hardly learns'), (0.3, None)]
)
def test_it_is_said_once_after_three_measurements(weight, words, shapes, tmp_path, monkeypatch):
    cfg, teacher = (h.runner_config('classifier', tmp_path / 'work', shapes) for _ in range(2))
    teacher.dump(tmp_path / 'teacher.py')
    cfg.optim_wrapper.optimizer.lr = 1e-7
    cfg.auto_scale_lr = dict(base_batch_size=16)
    cfg = training_config(cfg, method='fitnet', teacher=str(tmp_path / 'teacher.py'),
                          checkpoint='untrained', distill_options={'fitnet.weight': weight})  # fmt: skip
    cfg.model.share_every = 1
    said, hooks = [], []
    monkeypatch.setattr(alarms, 'print_log', lambda text, *rest: said.append(text))
    monkeypatch.setattr(
        'mmkd.commands.train.AlarmHook', lambda: hooks.append(AlarmHook()) or hooks[0]
    )
    train(cfg)
    assert (
        hooks[0]._measured == json.loads((tmp_path / 'work/summary.json').read_text())['max_iters']
    )
    assert said[0].startswith('optim_wrapper.optimizer.lr=1e-07 is for batches of 16')
    assert [words in text for text in said[1:]] == [True] * bool(words)
    assert hooks[0].said == said
