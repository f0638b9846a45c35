"""Trainings that are stopped and resumed end bit for bit like those that are not."""

import errno
import os
import random
import signal
from dataclasses import asdict

import mmengine.runner.runner as mmengine_runner
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from on_gpu import on_gpu
from resumable import BY_ITERATION, INFINITE, INSIDE, METHODS, WORKERS, Killer, config, run, same

from mmkd.core.forms import Form
from mmkd.core.method import Method, method_names
from mmkd.core.options import annotations_of
from mmkd.errors import InputError
from mmkd.family.taps import flatten
from mmkd.files.checkpoints import read_checkpoint
from mmkd.files.writing import latest_checkpoint

DRAWN = {'train_dataloader.persistent_workers': False,
         'train_dataloader.sampler': dict(type='Drawing')}  # fmt: skip
ACCUMULATED = {**INSIDE, 'default_hooks.checkpoint.interval': 2,
               'optim_wrapper.accumulative_counts': 3}  # fmt: skip
BEST = {'default_hooks.checkpoint.save_best': 'accuracy/top1',
        'default_hooks.checkpoint.rule': 'greater'}  # fmt: skip


@pytest.mark.parametrize(
    ('changes', 'kills'),
    [
        pytest.param(dict(), [6, 9], marks=pytest.mark.slow),
        (BEST, [6, (8, True)]),
        (INSIDE, [7, 10]),
        pytest.param(BY_ITERATION, [4, 7, 10], marks=pytest.mark.slow),
        (INFINITE, [4, (8, True), 10]),
        pytest.param(WORKERS, [6, 9], marks=pytest.mark.slow),
        ({**INSIDE, **WORKERS}, [7, 10]),
        pytest.param({**INFINITE, **WORKERS}, [7, 10], marks=pytest.mark.slow),
        pytest.param({**BY_ITERATION, **WORKERS}, [7, 10], marks=pytest.mark.slow),
        pytest.param({**BY_ITERATION, **WORKERS, **DRAWN}, [7], marks=pytest.mark.slow),
        (ACCUMULATED, [5, 9]),
    ],
    ids=['epochs', 'best', 'inside', 'iterations', 'infinite', 'workers',
         'inside-workers', 'infinite-workers', 'passes-workers', 'drawn-workers', 'accumulated'],
)  # fmt: skip
def test_a_killed_training_ends_like_one_that_was_not(changes, kills, shapes, tmp_path):
    cfg = config(shapes, **changes)
    straight = run(cfg, tmp_path / 'straight')
    for number, kill in enumerate(kills):
        at, validating = kill if isinstance(kill, tuple) else (kill, False)
        resume = 'auto' if number else None
        torch.rand(number + 1), random.random()  # another process: nothing is as it was
        assert run(cfg, tmp_path / 'killed', resume, Killer(at, validating)) is None
    resumed = run(cfg, tmp_path / 'killed', 'auto')
    assert resumed.iter == straight.iter == 12
    same(straight, resumed)


@pytest.mark.parametrize('name', METHODS)
def test_methods_go_on_as_if_nothing_had_happened(name, shapes, tmp_path):
    stages = ['backbone.layer2', 'backbone.layer3']
    changes = {**INSIDE, 'train_cfg.max_epochs': 2, 'train_cfg.val_interval': 2}
    cfg = config(shapes, methods={name: dict(METHODS[name], tap=stages)}, **changes)
    straight = run(cfg, tmp_path / 'straight')
    assert run(cfg, tmp_path / 'killed', None, Killer(4)) is None
    resumed = run(cfg, tmp_path / 'killed', 'auto')
    same(straight, resumed)
    ours, other = (r.model.distillation.methods[name].training_state() for r in (straight, resumed))
    if name == 'dpk':
        assert torch.equal(ours['rng'], other['rng'])
        history = [flatten(states['ratio']) for states in (ours, other)]
        assert len(history[0]) == len(history[1]) > 0
        assert all(torch.equal(a, b) for a, b in zip(*history))


REMEMBERING = [
    name for name, m in method_names().items()
    if m.training_state is not Method.training_state and m.__module__.startswith('mmkd.')
]  # fmt: skip


OF_QUERIES = ('kddetr',)


@pytest.mark.parametrize('name', REMEMBERING)
def test_what_is_remembered_comes_back_from_a_gpu(name, shapes, tmp_path, monkeypatch):
    """A Runner with a GPU loads a checkpoint onto it; generators take their states from the CPU alone."""
    with pytest.raises(TypeError):
        torch.Generator().set_state(on_gpu(torch.Generator().get_state()))
    method = METHODS.get(name, dict(type=f'mmkd.{method_names()[name].__name__}'))
    tap = {}
    if 'tap' in annotations_of(method_names()[name]):
        tap = dict(tap=['backbone.layer2', 'backbone.layer3'])
    if name in OF_QUERIES:
        cfg = short(shapes, family='dab_detr', methods={name: method})
    else:
        cfg = short(shapes, methods={name: dict(method, **tap)})
    straight = run(cfg, tmp_path / 'straight')
    cfg.load_from = str(tmp_path / 'straight/epoch_1.pth')
    loaded, load = [], mmengine_runner._load_checkpoint

    def to_gpu(*args, **kwargs):
        loaded.append(load(*args, **kwargs))
        return on_gpu(loaded[-1])

    monkeypatch.setattr(mmengine_runner, '_load_checkpoint', to_gpu)
    resumed = run(cfg, tmp_path / 'resumed', cfg.load_from)
    assert loaded[0]['method_states'][name] is not None
    same(straight, resumed)


def test_weights_that_follow_gradients_go_on(shapes, tmp_path):
    stages = ['backbone.layer2', 'backbone.layer3']
    cfg = short(shapes, methods=dict(pkd=dict(type='mmkd.PKD', tap=stages, weight='auto')))
    straight = run(cfg, tmp_path)
    share = straight.model.distillation.methods['pkd'].share.state()
    assert share['seen'] == 8
    resumed = run(cfg, tmp_path / 'resumed', str(tmp_path / 'epoch_1.pth'))
    assert resumed.model.distillation.methods['pkd'].share.state() == share
    measured = [r.model.distillation.shares.state() for r in (straight, resumed)]
    assert measured[0] == measured[1]
    assert measured[0]['seen'] == 8
    logged = [r.message_hub.get_scalar('train/pkd/share').data[0] for r in (straight, resumed)]
    assert logged[0].tolist() == logged[1].tolist()
    same(straight, resumed)


def test_a_detector_goes_on_as_if_nothing_had_happened(shapes, tmp_path):
    methods = dict(sfr=dict(type='mmkd.SFR'), frskd=dict(type='mmkd.FRSKD'))
    cfg = config(shapes, 'faster_rcnn', methods, **{'train_cfg.max_epochs': 2})
    straight = run(cfg, tmp_path / 'straight')
    assert run(cfg, tmp_path / 'killed', None, Killer(6)) is None
    same(straight, run(cfg, tmp_path / 'killed', 'auto'))


# -- checkpoints ----------------------------------------------------------------------------------


def short(shapes, **changes):
    return config(shapes, **{'train_cfg.max_epochs': 2, 'train_cfg.val_interval': 2, **changes})


def test_the_old_checkpoint_stays_until_the_new_one_is_there(shapes, tmp_path, monkeypatch):
    cfg = short(shapes, **{'default_hooks.checkpoint.max_keep_ckpts': 1})
    seen = []
    replace = os.replace

    def spy(source, target):
        if str(target).endswith('.pth'):
            seen.append(sorted(p.name for p in tmp_path.glob('*.pth')))
        replace(source, target)

    monkeypatch.setattr(os, 'replace', spy)
    run(cfg, tmp_path)
    assert seen == [[], ['epoch_1.pth']]
    assert sorted(p.name for p in tmp_path.glob('*.pt*')) == ['epoch_2.pth']


def test_a_full_disk_stops_with_a_message_and_leaves_the_last_checkpoint(
    shapes, tmp_path, monkeypatch
):
    cfg, fsync = short(shapes), os.fsync
    straight = run(cfg, tmp_path / 'straight')

    def full(handle):
        if (tmp_path / 'full/epoch_2.pth.part').exists():
            raise OSError(errno.ENOSPC, 'No space left on device')
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', full)
        with pytest.raises(
            InputError, match=r'epoch_2.pth: no space left on the disk \(.* MB needed'
        ):
            run(cfg, tmp_path / 'full')
    assert [p.name for p in (tmp_path / 'full').glob('*.p*t*')] == ['epoch_1.pth']
    same(straight, run(cfg, tmp_path / 'full', 'auto'))


@pytest.mark.parametrize('left', [0, 0.5, -1])
def test_a_cut_checkpoint_is_passed_over(left, shapes, tmp_path):
    cfg = short(shapes)
    straight = run(cfg, tmp_path)
    newest = tmp_path / 'epoch_2.pth'
    content = newest.read_bytes()
    newest.write_bytes(content[: int(left * len(content)) if left == 0.5 else left])
    assert latest_checkpoint(tmp_path) == tmp_path / 'epoch_1.pth'
    same(straight, run(cfg, tmp_path, 'auto'))
    newest.write_bytes(content[:100])
    with pytest.raises(InputError, match='truncated or damaged'):
        run(cfg, tmp_path, str(newest))


def test_a_damaged_byte_is_seen(shapes, tmp_path):
    path = tmp_path / 'epoch_1.pth'
    torch.save({'state_dict': {'a': torch.rand(1000)}}, path)
    assert latest_checkpoint(tmp_path) == path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r'all checkpoints in .* are truncated or damaged'):
        latest_checkpoint(tmp_path)


def test_nothing_to_resume_is_a_start(shapes, tmp_path):
    (tmp_path / 'last_checkpoint').write_text('')
    assert run(short(shapes), tmp_path, 'auto').iter == 8


def test_without_a_seed_the_checkpoints_is_taken(shapes, tmp_path):
    cfg = short(shapes, randomness=dict(seed=None))
    run(cfg, tmp_path)
    seed = read_checkpoint(tmp_path / 'epoch_1.pth')['meta']['seed']
    cfg.train_cfg.max_epochs = 3
    assert run(cfg, tmp_path, 'auto').seed == seed


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_the_iteration_with_a_checkpoint(number, shapes, tmp_path):
    cfg = short(shapes, **{'optim_wrapper.accumulative_counts': 4})
    straight = run(cfg, tmp_path / 'straight')
    handler = signal.getsignal(number)

    class Sender(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 5:
                os.kill(os.getpid(), number)

    with pytest.raises(SystemExit) as stop:
        run(cfg, tmp_path / 'stopped', None, Sender())
    assert stop.value.code == 128 + number
    signal.signal(number, handler)
    folder = tmp_path / 'stopped'
    assert (folder / 'last_checkpoint').read_text() == str(folder / 'interrupted.pth')
    assert read_checkpoint(folder / 'interrupted.pth')['meta']['iter'] == 6
    same(straight, run(cfg, folder, 'auto'))


# -- of another training ---------------------------------------------------------------------------

KD = dict(kd=dict(type='mmkd.KD'))


def plain(cfg):
    cfg.model, cfg.custom_hooks = cfg.model.student, cfg.custom_hooks[:1]


def wider(model):
    model.backbone.base_channels = 16
    model.head.in_channels = 128


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda cfg: wider(cfg.model.student), 'student.backbone.base_channels is 8 in the checkpoint'),
        (lambda cfg: wider(cfg.model.teacher.config), r"teacher 'teacher' \(weights\) is "),
        (lambda cfg: cfg.model.methods.kd.update(temperature=2.0),
         'methods.kd.temperature is absent in the checkpoint and 2.0 in the config'),
        (plain,
         'the checkpoint is of a distillation, the config trains the student alone'),
    ],
    ids=['student', 'teacher', 'method', 'plain'],
)  # fmt: skip
def test_a_checkpoint_of_another_training_is_refused(change, words, shapes, tmp_path):
    cfg = short(shapes, methods=KD)
    run(cfg, tmp_path)
    cfg.train_cfg.max_epochs = 3
    change(cfg)
    with pytest.raises(InputError, match=words):
        run(cfg, tmp_path, 'auto')


def test_a_plain_checkpoint_is_not_of_a_distillation(shapes, tmp_path):
    run(short(shapes), tmp_path)
    with pytest.raises(InputError, match='is of a training without distillation'):
        run(short(shapes, methods=KD), tmp_path, 'auto')


def test_a_resumed_training_keeps_the_form_of_its_teacher(shapes, tmp_path, monkeypatch):
    """And the dumped config has it, so that who trains with that measures nothing either."""
    fast = Form(fuse=True, channels_last=True, precision='bf16')
    clock = iter([1.0, 1.0, 0.3, 1.0, 0.3])
    monkeypatch.setattr('mmkd.core.forms.timed', lambda function, device: next(clock))
    monkeypatch.setattr('mmkd.core.teacher.WORTH', 1)
    cfg = config(shapes, methods=dict(pkd=dict(type='mmkd.PKD')), **INSIDE)
    assert run(cfg, tmp_path / 'killed', None, Killer(5)) is None
    (dumped,) = (Config.fromfile(path) for path in (tmp_path / 'killed').glob('*.py'))
    assert {name: dumped.model.teacher[name] for name in asdict(fast)} == asdict(fast)
    assert 'speed' not in dumped.model.teacher
    resumed = run(cfg, tmp_path / 'killed', 'auto')
    straight = run(dumped, tmp_path / 'straight')
    assert resumed.model.distillation.teachers['teacher'].form == fast
    assert straight.model.distillation.teachers['teacher'].form == fast
    same(straight, resumed)
