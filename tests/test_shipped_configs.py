"""Every shipped config is built and stepped on a fake batch."""

import re
from pathlib import Path

import helpers as h
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmkd.family.building import is_distiller, load_config, zoo_checkpoint

ROOT = Path(__file__).parents[1] / 'configs'
CONFIGS = sorted(p for p in ROOT.rglob('*.py') if '_base_' not in p.parts)


def kind_of(path):
    """What a config shares with those that differ in depths, widths or schedules alone."""
    return path.parent, re.sub(r'\d+', '#', path.stem)


def numbers_of(path):
    return [int(number) for number in re.findall(r'\d+', path.stem)]


SMALLEST = {kind_of(path): path for path in sorted(CONFIGS, key=numbers_of, reverse=True)}
"""The others of a kind are built the same way and take longer."""


def without_downloads(config):
    """Drop pretrained weights wherever a config names them."""
    if isinstance(config, dict):
        init = config.get('init_cfg')
        if isinstance(init, dict) and init.get('type') == 'Pretrained':
            config['init_cfg'] = None
        for value in config.values():
            without_downloads(value)


def size_for(path):
    """DPK cuts the coarsest level of a pyramid (stride 128) into tokens."""
    small = path.parent.name != 'dpk' or path.stem.endswith(('in1k', 'cifar100'))
    return (64, 64) if small else (160, 160)


@pytest.mark.parametrize(
    'path',
    [
        pytest.param(path, marks=() if path in SMALLEST.values() else pytest.mark.slow)
        for path in CONFIGS
    ],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_it_builds_and_steps(path, monkeypatch):
    monkeypatch.setattr('mmkd.core.engine.progress', lambda: 0.9)  # every ramp has begun
    cfg = load_config(path)
    init_default_scope(cfg.default_scope)
    without_downloads(cfg.model)
    if is_distiller(cfg.model):
        teacher = cfg.model.get('teacher')
        if teacher is not None and str(teacher.config).startswith(('mmdet::', 'mmpretrain::')):
            assert zoo_checkpoint(teacher.config) or teacher.get('checkpoint')
        if teacher is not None:
            teacher.checkpoint = 'untrained'
    model_cfg = cfg.model
    if cfg.get('data_preprocessor') is not None:
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(model_cfg)
    model.init_weights()
    if cfg.default_scope == 'mmseg':
        model.data_preprocessor.size = (64, 64)  # crops are padded to this
    if any(hook['type'] == 'mmkd.DistillationHook' for hook in cfg.get('custom_hooks', [])):
        model.distillation.optimizers_installed = True  # as the hook does
    family = {'mmdet': 'retinanet', 'mmpretrain': 'classifier', 'mmseg': 'segmentor'}
    losses = h.losses_of(model, family[cfg.default_scope], sizes=(size_for(path),) * 2)
    total, log = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    if is_distiller(cfg.model):
        for name in cfg.model.methods:
            assert any(key.startswith(f'{name}/loss') for key in log)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_distillation_is_at_most_twelve_lines(path):
    if is_distiller(load_config(path).model):
        lines = [
            line for line in path.read_text().splitlines() if line and not line.startswith('#')
        ]
        assert len(lines) <= 12
