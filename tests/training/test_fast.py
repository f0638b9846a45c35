"""``--fast``: the same numbers up to rounding, the same after a resume and on every rank, plain checkpoints."""

import copy
import functools
import re

import helpers as h
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from rank_work import DDP, on_ranks, run_on_rank
from resumable import INSIDE, Killer, config, run, same
from torch import nn

from mmkd import InputError
from mmkd.commands.train import training_config
from mmkd.core.method import method_names
from mmkd.files.checkpoints import read_checkpoint
from mmkd.training.fast import (
    KEY,
    FastHook,
    compile_parts,
    decide_fused,
    lay_channels_last,
    settle,
)

ALL = dict(channels_last=True, fused=True, compile=False)
PKD = dict(pkd=dict(type='mmkd.PKD', tap=['backbone.layer2', 'backbone.layer3']))
OPTIONS = {'dpk': dict(ratio=0.5), 'crd': dict(images=8, negatives=16)}
SHORT = {'train_cfg.max_epochs': 1}


def fast(cfg, **choice):
    cfg = Config(cfg.to_dict())
    cfg.custom_hooks.append(dict(type='mmkd.FastHook', **choice))
    return cfg


def clock(monkeypatch, *seconds):
    """Every comparison comes out alike: what is tried takes these parts of the plain time, again and again."""
    monkeypatch.setattr('mmkd.training.fast.ROUNDS', (1, 1))
    times = iter(seconds)

    def timed(function, device):
        function()
        return next(times)

    monkeypatch.setattr('mmkd.training.fast.timed', timed)


FASTER = (1.0, 1.0, 0.5, 1.0, 0.5)
"""Channels last, then a fused update: one look at the plain step, and a pair for each."""


@pytest.mark.parametrize(
    'optimizer', [dict(type='SGD', lr=0.01, momentum=0.9), dict(type='AdamW', lr=1e-3)]
)
def test_weights_are_those_without_it_up_to_rounding(optimizer, shapes, tmp_path):
    changes = {**SHORT, 'optim_wrapper.optimizer': optimizer}
    cfg = config(shapes, methods=PKD, **changes)
    plain, quick = run(cfg, tmp_path / 'plain'), run(fast(cfg, **ALL), tmp_path / 'fast')
    assert quick.optim_wrapper.optimizer.param_groups[0]['fused']
    assert quick.model.backbone.layer1[0].conv1.weight.stride()[1] == 1
    ours, theirs = (torch.cat([p.flatten() for p in r.model.parameters()]) for r in (plain, quick))
    assert float((ours - theirs).norm() / ours.norm()) < 1e-3
    assert not torch.equal(ours, theirs)  # it did something


def test_what_was_measured_is_dumped_saved_and_resumed(shapes, tmp_path, monkeypatch):
    cfg = config(shapes, methods=PKD, **INSIDE)
    clock(monkeypatch, *FASTER)
    assert run(fast(cfg), tmp_path / 'killed', None, Killer(5)) is None
    (dumped,) = (Config.fromfile(path) for path in (tmp_path / 'killed').glob('*.py'))
    assert dumped.custom_hooks[-1] == dict(type='mmkd.FastHook', **ALL)
    resumed = run(fast(cfg), tmp_path / 'killed', 'auto')  # the clock has nothing left to tell
    straight = run(dumped, tmp_path / 'straight')
    same(straight, resumed)


def test_checkpoints_are_plain(shapes, tmp_path):
    cfg = config(shapes, methods=PKD, **SHORT)
    run(cfg, tmp_path / 'plain'), run(fast(cfg, **ALL), tmp_path / 'fast')
    plain, quick = (read_checkpoint(tmp_path / name / 'epoch_1.pth') for name in ('plain', 'fast'))
    assert quick[KEY] == ALL
    assert [*plain['state_dict']] == [*quick['state_dict']]
    momenta = [state['momentum_buffer'] for state in quick['optimizer']['state'].values()]
    assert momenta
    assert all(t.is_contiguous() for t in [*quick['state_dict'].values(), *momenta])


def test_a_plain_training_goes_on_fast(shapes, tmp_path):
    """Momentum of the plain training lies otherwise than the weights do then."""
    cfg = config(shapes, methods=PKD, **INSIDE, **SHORT)
    straight = run(cfg, tmp_path / 'plain')
    resumed = run(fast(cfg, **ALL), tmp_path / 'fast', str(tmp_path / 'plain/iter_3.pth'))
    ours, theirs = (
        torch.cat([p.flatten() for p in r.model.parameters()]) for r in (straight, resumed)
    )
    assert float((ours - theirs).norm() / ours.norm()) < 1e-5


def test_plain_configs_take_the_flag_too(shapes, tmp_path):
    path = tmp_path / 'plain.py'
    h.runner_config('classifier', tmp_path, shapes).dump(path)
    cfg = training_config(path, fast=True)
    assert cfg.custom_hooks == [dict(type='mmkd.FastHook')]
    assert cfg.custom_imports['imports'] == ['mmkd']
    assert training_config(cfg, fast=True).custom_hooks == cfg.custom_hooks


def test_what_gains_nothing_is_left_with_its_reason(monkeypatch):
    clock(monkeypatch, 1.0, 1.0, 1.0, 1.0, 2.0)
    model = h.build(h.classifier()).train()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    choice = dict.fromkeys(ALL)
    line = settle(choice, model, wrapper, h.raw_batch('classifier', ((32, 32),) * 2))
    assert not any(choice.values())
    assert line == (
        'takes nothing; not channels_last (1.00 times as fast), fused (0.50 times as fast an update), '
        'compile (would not pay back within this training)'
    )
    assert model.backbone.layer1[0].conv1.weight.is_contiguous()


def test_measuring_touches_neither_student_nor_random_numbers():
    model = h.distiller(h.classifier(), h.classifier(16), pkd=PKD['pkd']).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=0.1))
    state = torch.get_rng_state()
    settle(dict.fromkeys(ALL), model, wrapper, h.raw_batch('classifier', ((32, 32),) * 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], v) for name, v in model.state_dict().items())
    assert not wrapper.optimizer.state
    assert all(p.grad is None for p in model.parameters())


def test_a_step_that_comes_out_otherwise_is_not_taken(monkeypatch):
    monkeypatch.setattr(
        'mmkd.training.fast.lay_channels_last', lambda m: m.head.fc.weight.data.mul_(2)
    )
    model = h.build(h.classifier()).train()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    choice = dict(channels_last=None, fused=False, compile=False)
    line = settle(choice, model, wrapper, h.raw_batch('classifier', ((32, 32),) * 2))
    assert re.search(r'not channels_last \(loss and gradient differ by \d', line)


@pytest.mark.parametrize('family', ['retinanet', 'classifier'])
def test_methods_read_maps_that_lie_channels_last(family):
    far = {}
    for name, kind in method_names().items():
        if not kind.__module__.startswith('mmkd.'):
            continue
        try:
            plain, other = one_loss(family, name, False), one_loss(family, name, True)
        except InputError as error:
            if not re.search(r' is for |detection|does ', str(error)):
                raise
            continue
        far[name] = abs(other - plain) / max(abs(plain), 1e-6)
    assert len(far) > 10
    assert {name: f for name, f in far.items() if not f <= 1e-3} == {}


def one_loss(family, name, channels_last):
    method = dict(type=f'mmkd.{name}', **OPTIONS.get(name, {}))
    teacher = dict(config=h.widened(h.FAMILIES[family]()), checkpoint='untrained', speed='exact')
    needed = dict(teacher=teacher) if method_names()[name].needs_teacher else {}
    torch.manual_seed(0)
    model = h.distiller(h.FAMILIES[family](), needed.get('teacher'), **{name: method}).train()
    model.distillation.optimizers_installed = True
    model.distillation.check_gradients = False
    if getattr(model.distillation.methods[name], 'images', 0) is None:
        model.distillation.methods[name].images = 8  # what its hook would say
    if channels_last:
        lay_channels_last(model)
    torch.manual_seed(1)
    losses = h.losses_of(model, family, sizes=((64, 64), (56, 48), (64, 64)))
    return float(sum(v.sum() for key, v in losses.items() if key.startswith(f'{name}/loss')))


def test_compiled_parts_keep_names_and_copies_are_plain(monkeypatch):
    real = torch.compile
    monkeypatch.setattr(torch, 'compile', functools.partial(real, backend='eager'))
    model = h.distiller(h.classifier(), h.classifier(16), pkd=PKD['pkd']).train()
    names = [*model.state_dict()]
    right = h.losses_of(model, 'classifier')
    compile_parts(model, ['backbone.layer2', 'backbone.layer3'])
    assert 'forward' not in vars(model.backbone)  # taps lie inside
    part = model.backbone.layer2
    found = h.losses_of(model, 'classifier')
    assert [*model.state_dict()] == names
    assert {k: float(v) for k, v in found.items() if 'loss' in k} == pytest.approx(
        {k: float(v) for k, v in right.items() if 'loss' in k}, rel=1e-4
    )
    compiled = vars(part)['forward']
    assert len(compiled.shapes) == 1
    monkeypatch.setattr(compiled, 'compiled', lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        part(torch.zeros(compiled.shapes[0]))
    part(torch.zeros(1, *compiled.shapes[0][1:]))  # another shape is not compiled
    part.eval()(torch.zeros(compiled.shapes[0]))
    assert 'Compiled' not in str(type(vars(copy.deepcopy(part))['forward']))


@pytest.mark.parametrize(
    ('choice', 'words'),
    [
        (dict(channels_last='yes'), "FastHook: channels_last='yes'"),
        (dict(channel_last=True), 'channel_last'),
    ],
)
def test_wrong_options_are_answered(choice, words):
    with pytest.raises((InputError, TypeError), match=re.escape(words)):
        FastHook(**choice)


def test_what_cannot_be_fused_or_compiled_is_answered(monkeypatch):
    weight = [nn.Parameter(torch.ones(1))]
    with pytest.raises(
        InputError, match='FastHook: fused=True: Rprop has no fused form; leave it out'
    ):
        decide_fused(dict(fused=True), torch.optim.Rprop(weight), 'cpu')
    choice = dict(fused=None)
    told = decide_fused(choice, torch.optim.SGD(weight, lr=0.1, foreach=True), 'cpu')
    assert (choice, told) == (dict(fused=False), 'SGD runs in the form that the config gives')

    def fails(*args, **kwargs):
        raise RuntimeError('no compiler')

    monkeypatch.setattr(torch, 'compile', fails)
    model = h.build(h.classifier()).train()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    batch = h.raw_batch('classifier', ((32, 32),) * 2)
    with pytest.raises(InputError, match='FastHook: compile=True: RuntimeError: no compiler'):
        settle(dict(channels_last=False, fused=False, compile=True), model, wrapper, batch)


def test_shards_are_refused(shapes, tmp_path):
    cfg = fast(config(shapes, methods=PKD), **ALL)
    cfg.model_wrapper_cfg = dict(type='mmkd.FullyShard')
    with pytest.raises(
        InputError, match=r'FastHook \(--fast\): model_wrapper_cfg.type=mmkd.FullyShard'
    ):
        run(cfg, tmp_path)


@pytest.mark.slow
def test_ranks_take_the_same(shapes, tmp_path):
    cfg = fast(config(shapes, methods=PKD, **SHORT))
    cfg.model_wrapper_cfg = DDP
    on_ranks(run_on_rank, tmp_path, [(cfg, str(tmp_path / 'run'), None)])
    (dumped,) = (Config.fromfile(path) for path in (tmp_path / 'run').glob('*.py'))
    (hook,) = [hook for hook in dumped.custom_hooks if hook.type == 'mmkd.FastHook']
    taken = {name: hook[name] for name in ALL}
    assert None not in taken.values()
    assert read_checkpoint(tmp_path / 'run/epoch_1.pth')[KEY] == taken
