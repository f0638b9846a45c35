"""What only a running training tells."""

import json
import sys
import types

import helpers as h
import pytest
import torch

from mmkd.commands import first_iterations
from mmkd.commands.first_iterations import Clock, between, mark, peak_memory
from mmkd.commands.live import LiveHook
from mmkd.commands.summary import SUMMARY
from mmkd.commands.train import train, training_config
from mmkd.training.method_optimizers import teachers_of


def test_a_clock_leaves_the_first_call_out_and_takes_the_median(monkeypatch):
    ticks = iter([0.0, 9.0, 10.0, 10.4, 20.0, 20.2, 30.0, 30.8])
    monkeypatch.setattr(first_iterations, 'mark', lambda device: next(ticks))
    clock, images = Clock(lambda images, word: word), torch.zeros(4, 3, 2, 2)
    assert clock.seconds_per_image() is None
    assert [clock(images, word='x') for _ in range(4)] == ['x'] * 4
    assert clock.seconds_per_image() == pytest.approx(0.1)


class Event:
    """An event of a GPU, which is waited for when its time is asked."""

    def __init__(self, **options):
        self.waited = False

    def record(self):
        """Nothing is waited for."""

    def synchronize(self):
        self.waited = True

    def elapsed_time(self, end):
        return 250.0 if end.waited else None


def test_on_a_gpu_it_is_the_gpus_time(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'Event', Event)
    begin, end = (mark(torch.device('cuda')) for _ in range(2))
    assert not end.waited
    assert between(begin, end) == 0.25


def test_memory_is_the_processs_or_the_gpus(monkeypatch):
    peak, holder = peak_memory()
    assert holder == 'the process'
    assert 2**28 < peak < 2**36
    monkeypatch.setitem(sys.modules, 'resource', types.SimpleNamespace(
        RUSAGE_SELF=0, getrusage=lambda who: types.SimpleNamespace(ru_maxrss=3)))  # fmt: skip
    monkeypatch.setattr(sys, 'platform', 'linux')
    assert peak_memory() == (3072, 'the process')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda: 7)
    assert peak_memory() == (7, 'tensors of the GPU')


def test_a_training_says_it_and_keeps_it(shapes, tmp_path, monkeypatch):
    cfg, teacher = (h.runner_config('classifier', tmp_path / 'work', shapes) for _ in range(2))
    teacher.dump(tmp_path / 'teacher.py')
    cfg.train_cfg.max_epochs, cfg.log_level = 1, 'INFO'
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    cfg.default_hooks.logger.interval = 1
    cfg = training_config(
        cfg, method='pkd+kd', teacher=str(tmp_path / 'teacher.py'), checkpoint='untrained'
    )
    timed = []
    monkeypatch.setattr(LiveHook, 'after_train', lambda self, runner: timed.append(
        'observe' in vars(teachers_of(runner)['teacher'])))  # fmt: skip
    train(cfg)
    assert timed == [False]
    content = json.loads((tmp_path / 'work' / SUMMARY).read_text())
    found = content['measured']
    iterations = content['max_iters']
    assert found['iterations'] == min(iterations, first_iterations.ENOUGH)
    assert found['memory'] > 2**28
    assert found['teachers']['teacher']['form'] == 'runs in the form exact'
    assert 0 < found['teachers']['teacher']['seconds'] < 10
    assert {*found['terms']} == {'pkd/loss', 'pkd/share', 'kd/loss', 'kd/share'}
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    assert f'measured in the first {found["iterations"]} iterations: ' in log
    share = found['terms']['pkd/share']
    assert f', {100 * share:.1f} % of the gradient at its taps' in log
    lines = next((tmp_path / 'work').glob('*/vis_data/scalars.json')).read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    shares = [entry['pkd/share'] for entry in logged if 'pkd/share' in entry]
    assert len(shares) == iterations
    assert all(0 < share < 1 for share in shares)
