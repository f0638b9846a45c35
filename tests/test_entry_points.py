"""Every way into mmkd is given a hostile checkpoint at every place: it is answered, and its code does not run.

The ways in are found, not listed: the commands of ``mmkd`` by their parsers, the scripts under ``tools/`` as
commands, the Python calls by the signatures of what ``mmkd`` and ``mmkd.commands`` offer. What a new one calls
its arguments decides how it is fed; one with arguments of unknown names fails here until it is said what they
take.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import helpers as h
import pytest
import torch
from hostile import PAYLOADS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.utils import get_installed_path
from torch import nn

import mmkd
import mmkd.commands
import mmkd_cli
from mmkd import InputError
from mmkd.family.building import model_config
from mmkd.files.safety import FORCE

ROOT = Path(__file__).parents[1]
COMMANDS = mmkd_cli.names()

ONLY_COMMANDS = {'methods', 'report'}
"""Those that came when there was `mmkd`."""

PLACES = ('argument', 'load_from', 'init_cfg', 'backbone.init_cfg', 'teacher.init_cfg', 'ema')
"""Where the hostile file is named: by the call itself, or by the config that it is given."""


def some_slow(*quick):
    """All places, of which only some are tried in a quick run."""
    return [pytest.param(p, marks=() if p in quick else pytest.mark.slow) for p in PLACES]


class Case:
    """Files and configs of one place, and what every argument gets there."""

    def __init__(self, place, folder, shapes, payload='archive'):
        self.trap, self.file = folder / 'ran', folder / 'hostile.pth'
        self.file.write_bytes(PAYLOADS[payload](self.trap))
        cfg, teacher = (h.runner_config('classifier', folder / 'work', shapes) for _ in range(2))
        pretrained = dict(type='Pretrained', checkpoint=str(self.file))
        good = folder / 'good.pth'
        torch.save(dict(state_dict=h.build(model_config(cfg)).state_dict()), good)
        cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size = 1, 4
        cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]  # `compare` reads its log
        for part in ('train', 'val', 'test'):
            cfg[f'{part}_dataloader'].dataset.indices = 4
        if place == 'load_from':
            cfg.load_from = str(self.file)
        if place == 'init_cfg':
            cfg.model.init_cfg = pretrained
        if place == 'backbone.init_cfg':
            cfg.model.backbone.init_cfg = pretrained
        if place == 'teacher.init_cfg':
            teacher.model.init_cfg = pretrained
        if place == 'ema':
            cfg.custom_hooks = [dict(type='EMAHook')]
            cfg.load_from, cfg.resume = str(self.file), True
        for name, content in (('student', cfg), ('teacher', teacher)):
            content.dump(folder / f'{name}.py')
        student, guide = str(folder / 'student.py'), str(folder / 'teacher.py')
        weights = str(self.file if place == 'argument' else good)
        self.named = place == 'argument'
        self.feeds = dict(
            config=student,
            checkpoint=weights,
            weights=weights,
            teacher=guide,
            teacher_checkpoint=weights,
            teachers=[f'{guide}:{weights}'],
            student_checkpoint=weights if self.named else None,
            spec=f'{guide}:{weights}',
            no_labels=None,
            resume=weights if self.named else None,
            distill='pkd',
            method='pkd',
            out=str(folder / 'out'),
            work_dir=str(folder / 'work'),
            arms=['pkd'],
            seeds=['0'],
            metric=None,
            baseline=None,
            smallest=None,
            images=str(shapes / 'images/val'),
            root=None,
            score_thr=0.3,
        )
        self.cfg, self.teacher_cfg = Config.fromfile(student), Config.fromfile(guide)

    def holds(self):
        return not self.trap.exists()


FILES = {'config', 'checkpoint', 'weights', 'teacher', 'teachers', 'cfg', 'student', 'spec'}
"""An argument of one of these names makes an entry point of a tool or function."""


# -- the command lines -----------------------------------------------------------------------------


def command_line(name, parser, feeds):
    """Arguments that give a file to whatever takes one; empty where nothing does."""
    actions = [a for a in parser._actions if a.dest != 'help']
    if not {a.dest for a in actions} & FILES:
        return []
    line = []
    for action in actions:
        switch = (
            action.nargs == 0 or action.choices or action.type is int or 'options' in action.dest
        )
        if switch:
            continue
        assert action.dest in feeds, (
            f'{name}: say in `Case.feeds` what {action.dest!r} gets, a hostile file if it takes files'
        )
        value = feeds[action.dest]
        values = value if isinstance(value, list) else [value]
        if value is not None:
            line += [*action.option_strings[:1], *map(str, values)]
    return line


@pytest.mark.parametrize('place', some_slow('argument', 'load_from', 'backbone.init_cfg'))
@pytest.mark.parametrize('name', COMMANDS)
def test_no_command_runs_the_code_of_a_checkpoint(
    name, place, shapes, tmp_path, monkeypatch, capsys
):
    case = Case(place, tmp_path, shapes)
    parser = mmkd_cli.fill(argparse.ArgumentParser(), name)
    feeds = dict(case.feeds, match=None)
    line = command_line(name, parser, feeds)
    if not line:
        return
    monkeypatch.chdir(tmp_path)
    status = 0
    try:
        mmkd_cli.main([name, *line])
    except SystemExit as stop:
        status = stop.code or 0
    assert case.holds()
    said = ''.join(capsys.readouterr())
    assert status in (0, 2), said
    assert status == 0 or 'wants to run io.open while it is read' in said
    if place == 'argument' and 'checkpoint' in ' '.join(
        feeds.keys() & {a.dest for a in parser._actions}
    ):
        assert status == 2, 'the file that it was given was not read'


def test_every_tool_is_a_command_and_every_command_a_tool():
    found = {}
    for tool in sorted((ROOT / 'tools').glob('*.py')):
        calls = [n for n in ast.walk(ast.parse(tool.read_text())) if isinstance(n, ast.Call)]
        assert [call.func.id for call in calls] == ['run_tool'], tool
        found[tool.stem] = calls[0].args[0].value
    assert sorted(found.values()) == sorted(set(COMMANDS) - ONLY_COMMANDS)
    other = {name: command for name, command in found.items() if name.replace('_', '-') != command}
    assert other == dict(list_taps='taps', export_student='export')


def test_a_command_imports_mmkd_before_it_does_anything():
    """That is what makes loading safe."""
    _, first, *_ = ast.parse(inspect.getsource(mmkd_cli._run)).body[0].body
    assert isinstance(first, ast.ImportFrom)
    assert first.module == 'mmkd.commands.tool'


# -- Python ----------------------------------------------------------------------------------------


def calls():
    """Functions and classes that mmkd offers and that take a config or a checkpoint."""
    found = {f'mmkd.{name}': getattr(mmkd, name) for name in mmkd.__all__}
    for info in pkgutil.iter_modules(mmkd.commands.__path__):
        module = importlib.import_module(f'mmkd.commands.{info.name}')
        own = {
            n: v for n, v in vars(module).items() if getattr(v, '__module__', '') == module.__name__
        }
        found |= {f'{info.name}.{name}': call for name, call in own.items() if name[0] != '_'}
    return {
        name: call for name, call in found.items() if callable(call) and parameters(call) & FILES
    }


def parameters(call):
    """Those of a class count where it reads a checkpoint; others are given what is built already."""
    if inspect.isclass(call) and issubclass(call, Exception):
        return set()
    found = set(inspect.signature(call).parameters)
    return set() if inspect.isclass(call) and 'checkpoint' not in found else found


CALLS = calls()
SLOW = {'demo.evaluate_in_plain_mmdet'}
"""It starts plain mmdet in a process that cannot import mmkd, on what the demo has just trained."""


def arguments(call, name, case, folder):
    """What a call is given, by the names of its parameters."""
    distiller = dict(type='mmkd.PKD')
    values = dict(
        case.feeds,
        cfg=case.cfg,
        student=model_config(case.cfg),
        methods=dict(pkd=distiller),
        method='pkd',
        parts=('train', 'val'),
        images=case.feeds['images'] if 'label' in name else 8,
        run=folder,
        console=None,
        options={},
        key='train_cfg.epochs',
        part='train',
    )
    if 'runner' in inspect.signature(call).parameters:
        values['runner'] = Runner.from_cfg(case.cfg)
    if name == 'mmkd.build_distiller':
        values['teacher'] = dict(config=case.feeds['teacher'], checkpoint=case.feeds['checkpoint'])
    parameters = inspect.signature(call).parameters.values()
    given = {}
    for parameter in parameters:
        needed = parameter.default is inspect.Parameter.empty
        if parameter.name in values and parameter.name not in ('console', 'images'):
            given[parameter.name] = values[parameter.name]
        elif needed:
            assert parameter.name in values, f'{name}: say here what {parameter.name!r} gets'
            given[parameter.name] = values[parameter.name]
    return given


def follow(result):
    """Do with what a call returns what its caller does next."""
    if isinstance(result, Config) and 'train_cfg' in result:
        result = Runner.from_cfg(result)
    if isinstance(result, Runner):
        result.train()
    elif isinstance(result, nn.Module) and hasattr(result, 'init_weights'):
        result.init_weights()


@pytest.mark.parametrize('place', some_slow('argument', 'load_from'))
@pytest.mark.parametrize('name', sorted(CALLS.keys() - SLOW))
def test_no_call_runs_the_code_of_a_checkpoint(
    name, place, shapes, tmp_path, monkeypatch, payload='archive'
):
    case = Case(place, tmp_path, shapes, payload)
    given = arguments(CALLS[name], name, case, tmp_path)
    monkeypatch.chdir(tmp_path)
    with DefaultScope.overwrite_default_scope('mmpretrain'), contextlib.suppress(InputError):
        follow(CALLS[name](**given))
    assert case.holds()


def test_the_trap_works(shapes, tmp_path):
    """Were anything trusted, the tests above would see it."""
    case = Case('backbone.init_cfg', tmp_path, shapes)
    with mmkd.trusting(), DefaultScope.overwrite_default_scope('mmpretrain'):
        h.build(model_config(case.cfg))
    assert not case.holds()


def test_mmdets_own_launcher_runs_no_code_of_what_a_distillation_starts_from(shapes, tmp_path):
    """It knows nothing of mmkd; the config imports it."""
    (tmp_path / 'hostile.pth').write_bytes(PAYLOADS['getattr'](tmp_path / 'ran'))
    teacher = h.runner_config('retinanet', tmp_path / 'work', shapes)
    cfg = mmkd.distill(teacher, 'pkd', teacher=teacher, checkpoint='untrained')
    cfg.load_from = str(tmp_path / 'hostile.pth')
    cfg.dump(tmp_path / 'distilled.py')
    launcher = Path(get_installed_path('mmdet'), '.mim/tools/train.py')
    result = subprocess.run(
        [sys.executable, str(launcher), str(tmp_path / 'distilled.py')],
        env={**os.environ, FORCE: '0', 'PYTHONPATH': str(ROOT)},
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert 'wants what no checkpoint needs (unsupported use of getattr' in result.stderr
    assert not (tmp_path / 'ran').exists()
