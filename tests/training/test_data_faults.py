"""Data that cannot be read, workers that die, files that cannot be written: one message, with the cure."""

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import helpers as h
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from resumable import INSIDE, WORKERS, config, run

from mmkd.commands.test import evaluate, evaluation_config
from mmkd.commands.train import train, training_config
from mmkd.files.writing import latest_checkpoint
from mmkd.training.data_faults import FaultHook, answer_of, answered, labels_of, watch
from mmkd.training.randomness import seed_all

ROOT = Path(__file__).parents[2]
TRAIN = 'annotations/train.json'


# -- images ----------------------------------------------------------------------------------------

DAMAGES = {
    'missing': (lambda path: path.unlink(), 'no such file'),
    'empty': (lambda path: path.write_bytes(b''), 'empty (0 bytes)'),
    'garbage': (lambda path: path.write_bytes(b'x' * 1000), 'no image, cut off or damaged (1000 bytes)'),
    'cut': (lambda path: os.truncate(path, 1200), "no image, cut off or damaged (1200 bytes)"),
}  # fmt: skip


@pytest.mark.parametrize(
    ('damage', 'workers'),
    [
        ('missing', 0),
        ('empty', 2),
        pytest.param('garbage', 0, marks=pytest.mark.slow),
        pytest.param('cut', 2, marks=pytest.mark.slow),
    ],
)
def test_an_image_that_cannot_be_read_is_named(damage, workers, data):
    path = data / 'images/train/000003.jpg'
    change, words = DAMAGES[damage]
    change(path)
    text = h.message_of(lambda: train(training_config(h.detection(data, workers))))
    assert text.startswith(f'data: {path}: {words}; ')
    assert f'take it out of {data / TRAIN}' in text
    assert '--resume' in text


def test_an_image_that_cannot_be_read_is_named_in_an_evaluation(data):
    cfg, path = h.detection(data), data / 'images/val/000001.jpg'
    model = h.build(dict(cfg.model, _scope_='mmdet'))
    torch.save(dict(state_dict=model.state_dict()), data / 'c.pth')
    path.write_bytes(b'')
    text = h.message_of(lambda: evaluate(evaluation_config(cfg, str(data / 'c.pth'))))
    assert text.startswith(f'data: {path}: empty (0 bytes); ')


def test_images_that_are_left_out_one_after_the_other_are_answered(data):
    for path in (data / 'images/train').iterdir():
        path.write_bytes(b'')
    cfg = h.detection(data)
    cfg.train_dataloader.dataset.pipeline[0].ignore_empty = True
    text = h.message_of(lambda: train(training_config(cfg)))
    assert 'Cannot find valid image after 1000' in text
    assert 'ignore_empty=True of LoadImageFromFile hides it' in text


def test_what_a_data_set_gives_is_the_same_and_other_errors_stay(data):
    cfg = config(data)
    given = []
    for watched in (False, True):
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            dataset = DATASETS.build(cfg.train_dataloader.dataset)
        if watched:
            watch(dataset)
            assert 'prepare_data' in vars(dataset)
        seed_all(0)
        given.append([dataset[i]['inputs'] for i in range(8)])
    assert all(torch.equal(a, b) for a, b in zip(*given))
    dataset.pipeline.transforms[0] = lambda sample: sample['gone']
    with pytest.raises(KeyError, match='gone'):
        dataset[0]


@pytest.mark.parametrize('all_classes', [True, False])
def test_folders_without_images_are_answered(all_classes, data):
    folders = sorted((data / 'classes/train').iterdir())
    for folder in folders if all_classes else folders[:1]:
        shutil.rmtree(folder)
        if all_classes:
            folder.mkdir()
    text = h.message_of(
        lambda: train(training_config(h.runner_config('classifier', data / 'work', data)))
    )
    assert ('Found 0 files' if all_classes else 'The number of subfolders (5)') in text
    assert 'each class needs a folder with images in data_prefix' in text


# -- workers ---------------------------------------------------------------------------------------


class WorkerKiller(Hook):
    """SIGKILL to a data worker."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 6:
            worker = runner.train_dataloader._iterator._workers[0]
            os.kill(worker.pid, signal.SIGKILL)
            time.sleep(60)  # torch's handler of the signal raises in it


def test_a_worker_that_is_killed_is_answered_and_leaves_the_last_checkpoint(shapes, tmp_path):
    cfg = config(shapes, **INSIDE, **WORKERS)
    text = h.message_of(run, cfg, tmp_path, None, WorkerKiller())
    assert 'is killed by signal: Killed' in text
    assert all(word in text for word in ['num_workers', '/dev/shm', '--resume'])
    assert latest_checkpoint(tmp_path) == tmp_path / 'iter_6.pth'


@TRANSFORMS.register_module(force=True)
class Unsendable:
    """Gives what cannot be sent to another process."""

    def __call__(self, sample):
        return dict(sample, never=lambda: None)


def test_a_batch_that_cannot_be_handed_over_ends_training_instead_of_stopping_it(
    shapes, tmp_path, capfd
):
    cfg = config(shapes, **WORKERS)
    cfg.train_dataloader.collate_fn = dict(type='pseudo_collate')
    pipeline = cfg.train_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset.pipeline = [*pipeline, dict(type='Unsendable')]
    assert 'exited unexpectedly' in h.message_of(run, cfg, tmp_path)
    assert 'data worker: a batch cannot be handed over: ' in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason='mounting a file system needs root')
def test_a_shared_memory_that_is_too_small_is_answered(shapes, tmp_path):
    cfg = h.detection(shapes, workers=2)
    cfg.train_dataloader.batch_size = 8
    cfg.dump(tmp_path / 'training.py')
    tool = f'{sys.executable} {ROOT}/tools/train.py {tmp_path}/training.py --work-dir {tmp_path}/w'
    small = f'mount -t tmpfs -o size=128k tmpfs /dev/shm && exec {tool}'
    if subprocess.run(['unshare', '-m', 'true']).returncode != 0:
        pytest.skip('a mount namespace of its own is not allowed here')
    result = subprocess.run(['unshare', '-m', 'sh', '-c', small], capture_output=True, text=True)
    assert result.returncode == 2, result.stderr[-3000:]
    assert 'unable to allocate shared memory' in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
    assert '--shm-size' in line
    assert 'tools/train.py' not in result.stderr  # a traceback of the training itself


# -- what does not fit the data ------------------------------------------------------------------------


def trained(data, family='retinanet', **changes):
    """The message with which a training ends."""
    cfg = h.runner_config(family, data.parent / 'work', data, **changes)
    return h.message_of(lambda: train(training_config(cfg)))


@pytest.mark.parametrize(
    ('family', 'head'),
    [('retinanet', 'bbox_head'), ('faster_rcnn', 'roi_head.bbox_head'), ('classifier', 'head')],
)
def test_fewer_classes_than_labels_are_answered_before_the_first_iteration(
    family, head, shapes, tmp_path
):
    cfg = h.runner_config(family, tmp_path, shapes, **{f'model.{head}.num_classes': 5})
    text = h.message_of(lambda: train(training_config(cfg)))
    assert text.startswith(f'{head}.num_classes=5: the training data have 6 classes; ')
    assert f'--cfg-options model.{head}.num_classes=6' in text


def test_labels_of_a_list_without_class_names_count():
    class Listed:
        metainfo = {}

        def get_gt_labels(self):
            return [0, 7, 2]

    class Several:
        def get_gt_labels(self):
            return [[0, 1], [2]]

    assert labels_of(Listed()) == 8
    assert labels_of(Several()) == 0
    assert labels_of(object()) == 0
    Listed.metainfo = dict(classes=('a', 'b'), thing_classes=('a',))
    assert labels_of(Listed()) == 1


def test_a_label_without_a_class_is_answered_where_it_is_met():
    cfg = h.runner_config('classifier', 'there', 'data')
    for error in (
        IndexError('Target 7 is out of bounds.'),
        RuntimeError('Class values must be smaller than num_classes.'),
    ):
        assert str(answer_of(error, cfg)).startswith('num_classes: the data have labels')


def test_a_batch_of_one_for_a_batch_norm_of_vectors_is_answered(data):
    head = dict(
        type='StackedLinearClsHead', num_classes=6, in_channels=64, mid_channels=[8],
        norm_cfg=dict(type='BN1d'),
    )  # fmt: skip
    changes = {'train_dataloader.batch_size': 1, 'model.head': dict(_delete_=True, **head)}
    text = trained(data, 'classifier', **changes)
    assert text.startswith(
        'train_dataloader.batch_size=1: BatchNorm in training mode had a batch of one'
    )
    assert 'drop_last=True' in text


@pytest.mark.parametrize(
    ('key', 'value', 'words'),
    [
        ('model.neck.in_channels', [8, 16, 32, 65], 'RuntimeError: Given groups=1, weight'),
        ('custom_hooks', [dict(type='EMAHok')], "mmdet::hook registry; nearest: 'EMAHook'"),
        ('train_dataloader.sampler.type', 'DefaultSampeler', "nearest: 'DefaultSampler'"),
        ('optim_wrapper.optimizer.lr', -1, 'Invalid learning rate: -1'),
        ('val_evaluator.metric', 'bobx', "got bobx"),
    ],
)  # fmt: skip
def test_what_fails_before_the_first_iteration_is_over_is_wrong_in_the_config(
    key, value, words, data
):
    text = trained(data, **{key: value})
    assert text.startswith('before the first iteration was over: ')
    assert words in text


def test_what_fails_later_is_not(shapes, tmp_path):
    class Late(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 1:
                raise ZeroDivisionError

    cfg = h.runner_config('classifier', tmp_path, shapes)
    cfg.custom_hooks = [dict(type=Late)]
    with pytest.raises(ZeroDivisionError):
        train(training_config(cfg))


def test_a_score_that_the_evaluation_does_not_give_is_answered(shapes, tmp_path):
    cfg = h.runner_config('classifier', tmp_path, shapes)
    cfg.default_hooks.checkpoint.save_best = 'coco/bbox_mAP'
    text = h.message_of(lambda: train(training_config(cfg)))
    assert "save_best: the evaluation gives no 'coco/bbox_mAP'" in text


def test_a_frozen_tap_is_answered(shapes, tmp_path):
    cfg = h.runner_config('classifier', tmp_path, shapes)
    teacher = dict(config=cfg.model.to_dict() | dict(_scope_='mmpretrain'), checkpoint='untrained')
    cfg.model.backbone.frozen_stages = 4
    fitnet = dict(type='mmkd.FitNet', tap='backbone.layer4')
    cfg.model = dict(
        type='mmkd.Distiller', student=cfg.model, teacher=teacher, methods=dict(a=fitnet)
    )
    text = h.message_of(lambda: train(training_config(cfg)))
    assert text.startswith('a/loss: its gradient does not reach the student')


def test_losses_of_plain_training_that_are_not_finite_stop_it(shapes, tmp_path):
    cfg = h.runner_config('classifier', tmp_path, shapes)
    cfg.optim_wrapper.optimizer.lr = float('nan')
    with pytest.raises(FloatingPointError, match='not finite: loss = nan'):
        train(training_config(cfg))
    assert not list(tmp_path.glob('*.pth'))


# -- logs ------------------------------------------------------------------------------------------


def test_a_log_file_that_cannot_be_written_says_so_once(capsys):
    cfg = h.runner_config('classifier', 'work', 'data')
    logger = logging.Logger('full')
    logger.addHandler(logging.FileHandler('/dev/full'))
    with answered(cfg, (), FaultHook()):
        logger.info('one')
        logger.info('two')
    err = capsys.readouterr().err
    assert err.count('log file /dev/full: lines are lost') == 1
    assert 'Logging error' not in err
    assert 'Traceback' not in err


def test_of_other_errors_nothing_is_said():
    cfg = h.runner_config('classifier', 'there', 'data')
    full = answer_of(OSError(errno.ENOSPC, 'No space left on device', 'scalars.json'), cfg)
    assert str(full).startswith('there: no space left on the disk')
    assert answer_of(OSError(errno.EACCES, 'Permission denied'), cfg) is None
    assert answer_of(RuntimeError('shapes cannot be multiplied'), cfg) is None
