"""Weights spread over ranks train as whole ones do, and are whole in checkpoints."""

import copy
from types import SimpleNamespace

import helpers as h
import pytest
import torch
from rank_work import DDP, on_ranks, run_on_rank
from torch import nn

from mmkd.commands.train import training_config
from mmkd.errors import InputError
from mmkd.files.checkpoints import read_checkpoint
from mmkd.training import sharding as sharding_hook
from mmkd.training.manifest import flat
from mmkd.training.sharding import FullyShard

METHODS = {
    'dpk': dict(type='mmkd.DPK', size='light', inject=[1], optimizer=dict(type='AdamW', lr=1e-3)),
    'kd': dict(type='mmkd.KD'),
    'frskd': dict(type='mmkd.FRSKD', rotations=True),
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
    'classifier': ('classifier', ['dpk', 'kd', 'sfr'], {}),
    'frskd': ('classifier', ['frskd'], {}),
    'retinanet': ('retinanet', ['dpk', 'kd'], {'optim_wrapper.accumulative_counts': 2}),
    'faster_rcnn': ('faster_rcnn', ['kd', 'sfr'], {}),
}
SAVED = ('state_dict', 'ema_state_dict', 'optimizer', 'method_optimizers')


def saved(path):
    checkpoint = read_checkpoint(path)
    kept = flat({name: checkpoint[name] for name in SAVED if name in checkpoint})
    return {name: value for name, value in kept.items() if isinstance(value, torch.Tensor)}


def same(ours, theirs, tolerance=0.0):
    assert ours.keys() == theirs.keys()
    assert [
        k for k in ours if ours[k].shape != theirs[k].shape or ours[k].dtype != theirs[k].dtype
    ] == []
    far = {
        k: float((ours[k].double() - v.double()).abs().max())
        for k, v in theirs.items()
        if v.numel()
    }
    assert {k: error for k, error in far.items() if not error <= tolerance} == {}


def test_shards_train_save_and_resume_as_whole_weights_do(shapes, tmp_path):
    cfg, ddp = (config(shapes, 'fcos', ['dpk', 'kd']) for _ in range(2))
    cfg.model_wrapper_cfg, ddp.model_wrapper_cfg = dict(SHARD, teacher='shard'), DDP
    straight = str(tmp_path / 'shard/epoch_1.pth')
    ranks = on_ranks(
        run_on_rank, tmp_path,
        [(ddp, str(tmp_path / 'ddp'), None), (cfg, str(tmp_path / 'shard'), None),
         (cfg, str(tmp_path / 'again'), straight), (ddp, str(tmp_path / 'whole'), straight)],
    )  # fmt: skip
    end = saved(tmp_path / 'shard/epoch_2.pth')
    same(saved(tmp_path / 'shard/epoch_1.pth'), saved(tmp_path / 'ddp/epoch_1.pth'), 2e-5)
    same(end, saved(tmp_path / 'ddp/epoch_2.pth'), 5e-5)
    same(end, saved(tmp_path / 'again/epoch_2.pth'))
    same(end, saved(tmp_path / 'whole/epoch_2.pth'), 5e-5)
    for part in ('student', 'teacher', 'optimizer'):
        whole, shares = ranks[0][0][part], [rank[1][part] for rank in ranks]
        assert sum(shares) == whole == ranks[1][0][part]
        assert max(shares) <= 0.53 * whole


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_families_and_methods_train_in_shards(case, shapes, tmp_path):
    runs = []
    for name, wrapper in {
        'ddp': DDP,
        'whole': SHARD,
        'shard': dict(SHARD, teacher='shard'),
    }.items():
        family, methods, changes = CASES[case]
        cfg = config(shapes, family, methods, **changes)
        cfg.model_wrapper_cfg = wrapper
        runs.append((cfg, str(tmp_path / name), None))
    on_ranks(run_on_rank, tmp_path, runs)
    expected = saved(tmp_path / 'ddp/epoch_2.pth')
    for name in ('whole', 'shard'):
        same(saved(tmp_path / name / 'epoch_2.pth'), expected, 5e-5)


@pytest.mark.slow
def test_accumulated_gradients_are_resumed(shapes, tmp_path):
    cfg = config(shapes, 'retinanet', ['kd'], **{'optim_wrapper.accumulative_counts': 3})
    cfg.model_wrapper_cfg = SHARD
    middle = str(tmp_path / 'shard/epoch_1.pth')  # after 4 iterations
    runs = [(cfg, str(tmp_path / 'shard'), None), (cfg, str(tmp_path / 'again'), middle)]
    on_ranks(run_on_rank, tmp_path, runs)
    same(saved(tmp_path / 'shard/epoch_2.pth'), saved(tmp_path / 'again/epoch_2.pth'))


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(teacher='shared'), r"model_wrapper_cfg.teacher='shared'; nearest: 'shard'"),
        (dict(smallest=0), 'model_wrapper_cfg.smallest=0; needed: a whole number of parameters'),
        (dict(teachers='shard'), r"model_wrapper_cfg: unknown option 'teachers'; nearest: 'teacher'"),
        (dict(reshard_after_forward='no'), "reshard_after_forward='no'; needed: True or False"),
        (dict(smallest=1e6), 'model_wrapper_cfg.smallest=1000000.0; needed: a whole number'),
    ],
)  # fmt: skip
def test_wrong_options_are_answered(options, words):
    with pytest.raises(InputError, match=words):
        FullyShard(nn.Linear(1, 1), **options)


def test_without_its_hook_nothing_is_trained():
    model = FullyShard(h.build_model(h.classifier()))
    with pytest.raises(InputError, match='needs the hook that shards'):
        model.train_step({}, None)


def test_weights_by_gradient_share_are_not_sharded():
    kd = dict(METHODS['kd'], weight='auto')
    model = h.distiller(h.classifier(), h.classifier(), kd=kd)
    with pytest.raises(InputError, match=r"methods\.kd: weight='auto' runs parts"):
        FullyShard(model)


def test_a_compiled_teacher_is_not_sharded():
    guide = dict(config=h.classifier(), checkpoint='untrained', compile=True)
    model = h.distiller(h.classifier(), guide, kd=METHODS['kd'])
    assert FullyShard(model, teacher='whole') is model
    with pytest.raises(InputError, match=r'teacher=shard: teacher .teacher. is compiled'):
        FullyShard(model, teacher='shard')


@pytest.mark.parametrize(
    ('option', 'value'),
    [
        ('runner_type', 'FlexibleRunner'),
        ('model_wrapper_cfg.type', 'MMFullyShardedDataParallel'),
    ],
)
def test_mmengines_own_sharding_is_answered(option, value, shapes):
    cfg = config(shapes, 'retinanet', ['kd'], **{option: value})
    with pytest.raises(InputError, match=f'{option}={value}: .* set model_wrapper_cfg=dict'):
        training_config(cfg)


def test_ranks_must_validate_as_many_batches(monkeypatch):
    runner = SimpleNamespace(val_loop='there', val_dataloader=[1, 2])
    monkeypatch.setattr(sharding_hook, 'gather_objects', lambda own: [own, own])
    sharding_hook.refuse_uneven_validation(runner)
    monkeypatch.setattr(sharding_hook, 'gather_objects', lambda own: [own, 1])
    with pytest.raises(InputError, match=r'val_dataloader: the ranks have \[2, 1\] batches'):
        sharding_hook.refuse_uneven_validation(runner)
