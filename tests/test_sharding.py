"""Weights spread over ranks train as whole ones do, and are whole in checkpoints."""

import copy

import helpers as h
import pytest
import torch
from rank_work import on_ranks, run_on_rank
from torch import nn

from mmkd.checkpoints import read_checkpoint
from mmkd.errors import InputError
from mmkd.sharding import FullyShard

METHODS = {
    'dpk': dict(type='mmkd.DPK', size='light', inject=[1], optimizer=dict(type='AdamW', lr=1e-3)),
    'kd': dict(type='mmkd.KD'),
    'frskd': dict(type='mmkd.FRSKD'),
    'sfr': dict(type='mmkd.SFR'),
}
STAGES = ['backbone.layer2', 'backbone.layer3']
SHARD = dict(type='mmkd.FullyShard', smallest=1000)


def config(shapes, family, methods, **changes):
    cfg = h.runner_config(family, '', shapes)
    cfg.launcher, cfg.randomness = 'pytorch', dict(seed=3)
    cfg.train_cfg.max_epochs = 2
    cfg.optim_wrapper = dict(
        type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3), clip_grad=dict(max_norm=1.0)
    )
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.3), dict(type='mmkd.DistillationHook')]
    chosen = {name: dict(METHODS[name]) for name in methods}
    if family == 'classifier':
        cfg.train_dataloader.dataset.indices = 8
        for method in (chosen[name] for name in ('dpk', 'frskd', 'sfr') if name in chosen):
            method.pop('inject', None)
            method['tap'] = STAGES
    teacher = {}
    if {'dpk', 'kd'} & set(methods):
        wide = copy.deepcopy(cfg.model)
        teacher = dict(teacher=dict(config=wide, checkpoint='untrained'))
    cfg.model = dict(type='mmkd.Distiller', student=cfg.model, methods=chosen, **teacher)
    cfg.merge_from_dict(changes)
    return cfg


CASES = {
    'classifier': ('classifier', ['dpk', 'kd', 'sfr']),
    'frskd': ('classifier', ['frskd']),
    'retinanet': ('retinanet', ['dpk', 'kd']),
    'fcos': ('fcos', ['sfr']),
    'faster_rcnn': ('faster_rcnn', ['kd', 'frskd']),
}


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('teacher', ['whole', 'shard'])
def test_shards_train_as_whole_weights_do(case, teacher, shapes, tmp_path):
    family, methods = CASES[case]
    ...
