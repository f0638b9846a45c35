"""Small trainings that are killed and resumed within this process, and what they end with."""

import copy

import helpers as h
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import Runner
from torch.utils.data import Sampler

from mmkd.commands.train import train, training_config
from mmkd.core.method import find_method

BY_ITERATION = {
    'train_cfg': dict(type='IterBasedTrainLoop', max_iters=12, val_interval=4),
    'default_hooks.checkpoint.by_epoch': False,
    'default_hooks.checkpoint.interval': 3,
    'param_scheduler': [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=9)],
}
INFINITE = {**BY_ITERATION, 'train_dataloader.sampler': dict(type='InfiniteSampler', shuffle=True)}
INSIDE = {'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 3}
WORKERS = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True,
           'val_dataloader.num_workers': 1, 'val_dataloader.persistent_workers': True}  # fmt: skip
METHODS = {
    'dpk': dict(type='mmkd.DPK', size='light', optimizer=dict(type='AdamW', lr=1e-3)),
    'frskd': dict(type='mmkd.FRSKD', rotations=True),
    'sfr': dict(type='mmkd.SFR'),
}


@DATA_SAMPLERS.register_module(force=True)
class Drawing(Sampler):
    """Draws its order with the generator of the process, as torch's RandomSampler does."""

    def __init__(self, dataset, seed):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __iter__(self):
        yield from torch.randperm(len(self)).tolist()


class Kill(Exception):
    """What a SIGKILL is here: nothing is written after it."""


class Killer(Hook):
    """Raises after an iteration, or in the validation after it; before any other hook acts on it."""

    priority = 0

    def __init__(self, at, validating=False):
        self.at, self.validating = at, validating

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.at and not self.validating:
            raise Kill

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.at and self.validating:
            raise Kill


def config(shapes, family='classifier', methods=None, **changes):
    """Four iterations an epoch, three epochs, with everything that draws random numbers."""
    cfg = h.runner_config(family, '', shapes)
    cfg.train_cfg.max_epochs = 3
    cfg.randomness = dict(seed=3)
    if family == 'classifier':
        cfg.model.backbone.drop_path_rate = 0.3
        cfg.train_dataloader.dataset.indices = 8
        flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
        erase = dict(type='RandomErasing', mode='rand')
        pipeline = cfg.train_dataloader.dataset.pipeline
        cfg.train_dataloader.dataset.pipeline = [*pipeline[:-1], flip, erase, pipeline[-1]]
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.3)]
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=6),
        dict(type='CosineAnnealingLR', T_max=3, by_epoch=True),
    ]
    for name, value in changes.items():
        *path, last = name.split('.')
        part = cfg
        for step in path:
            part = part[step]
        part[last] = value
    if methods is not None:
        teacher = {}
        if any(find_method(m['type']).needs_teacher for m in methods.values()):
            teacher = dict(teacher=dict(config=copy.deepcopy(cfg.model), checkpoint='untrained'))
        cfg.model = dict(type='mmkd.Distiller', student=cfg.model, methods=methods, **teacher)
        cfg.custom_hooks.append(dict(type='mmkd.DistillationHook'))
    return cfg


def run(cfg, work_dir, resume=None, killer=None):
    """What ``tools/train.py`` does, in this process; the Runner, or None if it was killed."""
    cfg = copy.deepcopy(cfg)
    cfg = training_config(cfg, work_dir=str(work_dir), resume=resume)
    made = []
    real = Runner.from_cfg

    def build(given):
        made.append(real(given))
        if killer is not None:
            made[0].register_hook(killer)
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, 'from_cfg', staticmethod(build))
        try:
            train(cfg)
        except Kill:
            return None
    return made[0]


def state(runner):
    """All weights that a Runner ends with, those of the average included."""
    found = {name: value.clone() for name, value in runner.model.state_dict().items()}
    (average,) = [hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook']
    found |= {f'ema {n}': v for n, v in average.ema_model.state_dict().items()}
    return found


def same(ours, theirs):
    """Two Runners have ended alike, bit for bit."""
    ours, theirs = state(ours), state(theirs)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
