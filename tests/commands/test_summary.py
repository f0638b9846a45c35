"""What is said at the start of a training, and kept with what came out."""

import json
from types import SimpleNamespace

import helpers as h
import pytest
import torch

from mmkd.commands.alarms import batch_size
from mmkd.commands.summary import SUMMARY, SummaryHook, macs, reason, shown, weight_words
from mmkd.commands.train import train, training_config
from mmkd.errors import InputError
from mmkd.family.building import build_model
from mmkd.family.running import probe
from mmkd.family.taps import Tap
from mmkd.files.checkpoints import read_checkpoint


@pytest.fixture
def config(shapes, tmp_path):
    """Trains a classifier by two methods for an epoch of 4 iterations."""
    cfg, teacher = (h.runner_config('classifier', tmp_path / 'work', shapes) for _ in range(2))
    teacher.dump(tmp_path / 'teacher.py')
    cfg.train_cfg.max_epochs, cfg.log_level = 1, 'INFO'
    cfg.train_dataloader.dataset.indices, cfg.val_dataloader.dataset.indices = 8, 4
    options = {'pkd.weight': 3.0, 'pkd.tap': 'backbone.layer4'}
    return training_config(
        cfg, method='pkd+kd', teacher=str(tmp_path / 'teacher.py'), checkpoint='untrained',
        distill_options=options,
    )  # fmt: skip


def summary(tmp_path):
    return json.loads((tmp_path / 'work' / SUMMARY).read_text())


def test_a_finished_training_is_summed_up(config, tmp_path):
    train(config)
    found = summary(tmp_path)
    student = build_model(config.model.student)
    count = sum(p.numel() for p in student.parameters())
    assert found['student']['parameters'] == found['teachers']['teacher']['parameters'] == count
    assert found['data'] == dict(train=8, batch=2, val=4)
    assert (found['state'], found['iteration'], found['max_iters']) == ('finished', 4, 4)
    assert found['checkpoint'] == str(tmp_path / 'work/epoch_1.pth')
    assert 'accuracy/top1' in found['metrics']
    assert found['versions']['torch'] == torch.__version__
    assert found['methods']['pkd']['weight'] == '3.0'
    taps = found['methods']['pkd']['student_taps']
    assert taps[0].startswith('backbone.layer4 (')
    assert found['methods']['pkd']['teacher_taps'] == taps  # its twin's
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    assert shown(found, terminal=False) in log


def test_a_batch_is_as_large_as_its_sampler_says():
    sampler = SimpleNamespace(batch_size=16)
    assert batch_size(SimpleNamespace(batch_size=None, batch_sampler=sampler)) == 16
    assert batch_size(SimpleNamespace(batch_size=4, batch_sampler=None)) == 4
    assert batch_size(SimpleNamespace()) is None


def test_multiplications_are_those_of_the_layers():
    model = build_model(h.classifier())
    seen = probe(model, [Tap('backbone.conv1')], sizes=[64])
    stem = model.backbone.conv1
    side = 64 // stem.stride[0]
    assert macs(model, seen)['image'] == 64
    assert macs(model, seen)['number'] >= stem.weight.numel() * side**2


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        (None, '1.0'),
        (3.0, '3.0'),
        ('auto', "auto: 3 of the task's gradient at its taps"),
        (
            dict(type='CutOff', value=2.0, at=0.9),
            'CutOff: 2 at the start, 2 half way, 0 at the end',
        ),
    ],
)
def test_weights_and_schedules_in_words(given, words):
    options = {} if given is None else dict(weight=given)
    model = h.distiller(h.classifier(), h.classifier(), kd=dict(type='mmkd.KD', **options))
    assert weight_words(model.distillation.methods['kd'], given) == words


def test_a_training_that_fails_says_why(config, tmp_path, monkeypatch):
    def broken(*args, **options):
        raise FloatingPointError('not finite: pkd/loss = nan')

    monkeypatch.setattr('mmkd.methods.pkd.PKD.forward', broken)
    with pytest.raises(FloatingPointError):
        train(config)
    assert summary(tmp_path)['state'] == 'stopped'
    assert summary(tmp_path)['error'].endswith('not finite: pkd/loss = nan')


def test_what_is_drawn_for_the_table_changes_no_training(config, tmp_path, monkeypatch):
    """Dry runs that count multiplications use no random numbers that training would."""
    weights = []
    for _ in range(2):
        train(config.copy())
        weights.append(read_checkpoint(tmp_path / 'work/epoch_1.pth')['state_dict'])
        monkeypatch.setattr(SummaryHook, 'before_run', lambda self, runner: None)
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize(
    ('error', 'words'),
    [
        (InputError('tap: unknown'), 'tap: unknown'),
        (SystemExit(143), 'stopped by a signal (exit status 143); mmkd train --resume goes on'),
        (KeyboardInterrupt(), 'KeyboardInterrupt: '),
        (RuntimeError('out of memory\nmore'), 'RuntimeError: out of memory'),
    ],
)
def test_reasons(error, words):
    assert reason(error) == words


CONTENT = dict(
    student=dict(type='GFL', parameters=2_000_000, trained=1_500_000, macs=dict(number=3e8, image=128)),
    teachers=dict(teacher=dict(summary='the teacher: GFL, 4.00 M parameters, 7 MiB, fp32', macs=None)),
    methods=dict(
        pkd=dict(type='PKD', weight='6.0', options={}, parameters=0, student_taps=['neck (64x8x8)'],
                 teacher_taps=['neck'])
    ),
    data=dict(train=100, batch=4, val=20), max_iters=50, seed=1,
)  # fmt: skip


def test_lines_off_a_terminal_and_a_box_on_one():
    plain, boxed = shown(CONTENT, terminal=False), shown(CONTENT, terminal=True)
    assert [line.split('  ')[0].strip() for line in plain.splitlines()][:2] == [
        'student',
        'teacher',
    ]
    assert 'GFL, 2.00 M parameters, 1.50 M trained, 300 MMACs to its taps at 128 px' in plain
    assert '100 images to train in batches of 4, 20 to validate' in plain
    assert boxed.startswith('╭')
    assert all(
        word in boxed for word in ('PKD, weight 6.0', 'neck (64x8x8)', '50 iterations, seed 1')
    )


def test_a_folder_that_is_full_stops_no_training(tmp_path):
    hook = SummaryHook()
    hook.content, hook._path = dict(CONTENT), tmp_path / 'file/summary.json'
    (tmp_path / 'file').write_text('')
    hook._write(state='running')
    assert not (tmp_path / 'file/summary.json').exists()
