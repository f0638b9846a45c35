"""A teacher that has nothing to teach is said before training, with both numbers; nothing else changes."""

import copy

import helpers as h
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

import mmkd
from mmkd import InputError
from mmkd.commands import teacher_check
from mmkd.commands.runner import build_runner
from mmkd.commands.teacher_check import (
    IMAGES,
    Check,
    TeacherCheckHook,
    alarms,
    evaluated_on,
    images_to_check,
)
from mmkd.commands.train import training_config
from mmkd.core.teacher import WORTH
from mmkd.training.method_optimizers import bare


def segmentation(folder):
    """Four images whose right half is of the second class."""
    for name in ('images', 'masks'):
        (folder / name).mkdir()
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 1
    for i in range(4):
        Image.fromarray(np.full((64, 64, 3), 60 * i, np.uint8)).save(folder / f'images/{i}.png')
        Image.fromarray(mask).save(folder / f'masks/{i}.png')
    load = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ]
    data = dict(type='BaseSegDataset', data_root=str(folder), img_suffix='.png', seg_map_suffix='.png',
                data_prefix=dict(img_path='images', seg_map_path='masks'), pipeline=load,
                metainfo=dict(classes=('a', 'b', 'c', 'd'), palette=[[i] * 3 for i in range(4)]))  # fmt: skip
    loader = dict(batch_size=2, num_workers=0, dataset=data)
    sampler = dict(type='DefaultSampler', shuffle=False)
    model = h.segmentor()
    model.pop('_scope_')
    return Config(dict(
        default_scope='mmseg', model=model, log_level='ERROR',
        visualizer=dict(type='Visualizer', vis_backends=[]),
        train_dataloader=dict(loader, sampler=dict(sampler, shuffle=True)),
        val_dataloader=dict(loader, sampler=sampler), val_cfg=dict(type='ValLoop'),
        val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=2, val_interval=9),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01)),
    ))  # fmt: skip


def distilled(cfg, tmp_path, **options):
    """A Runner whose hooks have not been called; the teacher is the student's twin, of other weights."""
    cfg.work_dir = str(tmp_path / 'work')
    twin = copy.deepcopy(cfg)
    twin.dump(tmp_path / 'teacher.py')
    torch.manual_seed(7)
    weights = h.build(dict(twin.model, _scope_=twin.default_scope)).state_dict()
    torch.save(weights, tmp_path / 'teacher.pth')
    given = dict(
        method='pkd', teacher=str(tmp_path / 'teacher.py'), checkpoint=str(tmp_path / 'teacher.pth')
    )
    return build_runner(training_config(cfg, **given, **options))


def config_of(task, tmp_path, shapes):
    if task == 'segmentor':
        (tmp_path / 'data').mkdir()
        return segmentation(tmp_path / 'data')
    return h.runner_config(task, tmp_path / 'work', shapes)


@pytest.mark.parametrize(
    ('task', 'metric'),
    [('classifier', 'accuracy/top1'), ('retinanet', 'coco/bbox_mAP'), ('segmentor', 'mIoU')],
)
def test_the_numbers_are_those_of_the_runners_own_validation(
    task, metric, tmp_path, shapes, monkeypatch
):
    cfg = config_of(task, tmp_path, shapes)
    plain = copy.deepcopy(cfg)
    runner = distilled(cfg, tmp_path, check_teacher=1000)
    plain.merge_from_dict(dict(load_from=str(tmp_path / 'teacher.pth'), work_dir=str(tmp_path / 'plain'),
                               experiment_name='plain'))  # fmt: skip
    own = Runner.from_cfg(plain)
    own.load_or_resume()
    wanted, images = own.val(), len(own.val_dataloader.dataset)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    hook, said = TeacherCheckHook(), []
    monkeypatch.setattr(
        teacher_check, 'print_log', lambda text, *rest: said.append((text, rest[1:]))
    )
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    hook.before_train(runner)
    assert (hook.found.metric, hook.found.images, hook.found.student) == (metric, images, None)
    assert hook.found.teachers == {'teacher': pytest.approx(wanted[metric], abs=1e-6)}
    assert any(
        f'check_teacher: {metric} on {images} validation images: teacher ' in text
        for text, _ in said
    )
    assert torch.get_rng_state().equal(states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert runner.val_loop.evaluator.metrics[0].results == []
    assert getattr(runner.val_loop.evaluator.metrics[0], 'img_ids', None) is None


def test_part_of_a_set_is_measured_against_its_own_objects(tmp_path, shapes):
    """Images that were not looked at do not count as missed."""
    cfg = h.runner_config('retinanet', tmp_path / 'work', shapes)
    runner = distilled(cfg, tmp_path, check_teacher=2)
    seen, metric = [], runner.val_loop.evaluator.metrics[0]
    compute = metric.compute_metrics
    metric.compute_metrics = lambda results: seen.append(list(metric.img_ids)) or compute(results)
    evaluated_on(runner, bare(runner).distillation.teachers['teacher'].model, 2)
    info = runner.val_dataloader.dataset.get_data_info
    assert seen == [[info(0)['img_id'], info(2)['img_id']]]


def test_a_student_that_starts_from_weights_is_evaluated_too(tmp_path, shapes):
    cfg = h.runner_config('classifier', tmp_path / 'work', shapes)
    torch.save(h.build(dict(cfg.model, _scope_='mmpretrain')).state_dict(), tmp_path / 'start.pth')
    cfg.load_from = str(tmp_path / 'start.pth')
    runner = distilled(cfg, tmp_path, check_teacher=3)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    hook = TeacherCheckHook()
    hook.before_train(runner)
    assert hook.found.images == 3
    assert hook.found.student is not None
    assert len(hook.said) == 1  # of a teacher that has not learnt anything


def test_it_is_as_long_a_training_as_is_worth_it(tmp_path, shapes):
    runner = distilled(h.runner_config('classifier', tmp_path / 'work', shapes), tmp_path)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    assert images_to_check(runner) == 0
    runner._train_loop._max_iters = WORTH
    assert images_to_check(runner) == len(runner.val_dataloader.dataset) < IMAGES
    runner._resume = True
    assert images_to_check(runner) == 0


def test_an_evaluator_that_fails_costs_a_warning(tmp_path, shapes, monkeypatch):
    runner = distilled(
        h.runner_config('classifier', tmp_path / 'work', shapes), tmp_path, check_teacher=2
    )
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    said = []
    monkeypatch.setattr(teacher_check, 'print_log', lambda text, *rest: said.append(text))
    monkeypatch.setattr(runner.val_loop.evaluator, 'evaluate', lambda size: 1 / 0)
    hook = TeacherCheckHook()
    hook.before_train(runner)
    assert hook.found is None
    assert said[-1].startswith('check_teacher: not done (ZeroDivisionError: division by zero')
    assert bare(runner).training


def test_a_teacher_of_other_classes_is_left_out(tmp_path, shapes, monkeypatch):
    cfg = h.runner_config('classifier', tmp_path / 'work', shapes)
    other = copy.deepcopy(cfg)
    other.model.head.num_classes = 9
    other.dump(tmp_path / 'other.py')
    given = dict(
        method='pkd', teacher=str(tmp_path / 'other.py'), checkpoint='untrained', check_teacher=2
    )
    runner = build_runner(training_config(cfg, **given))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    said = []
    monkeypatch.setattr(teacher_check, 'print_log', lambda text, *rest: said.append(text))
    hook = TeacherCheckHook()
    hook.before_train(runner)
    assert hook.found is None
    assert said == ['check_teacher: the teacher is not evaluated: it is of another task, or of other classes, '
                    'than the student']  # fmt: skip


@pytest.mark.parametrize(
    ('found', 'words'),
    [
        (Check(64, 'coco/bbox_mAP', {'teacher': 0.0021}), 'teacher reaches coco/bbox_mAP 0.0021 on 64 '
         'validation images, about what guessing does (0.01)'),
        (Check(64, 'coco/bbox_mAP', {'teacher': 0.31}, 0.33), 'teacher reaches coco/bbox_mAP 0.31 on 64 '
         "validation images, no more than the student's start (0.33)"),
        (Check(64, 'coco/bbox_mAP', {'teacher': 0.35}, 0.33), None),
        (Check(64, 'coco/bbox_mAP', {'teacher': 0.35}), None),
    ],
)  # fmt: skip
def test_what_is_warned_of(found, words):
    said = alarms(found, lambda images: 0.01)
    assert [words in text for text in said] == [True] * bool(words)


def test_guessing_is_known_by_task(tmp_path, shapes):
    runner = distilled(h.runner_config('classifier', tmp_path / 'work', shapes), tmp_path)
    classes = len(h.SHAPES)
    guess = 1 / classes
    wanted = 100 * (guess + 2 * (guess * (1 - guess) / 64) ** 0.5)
    assert teacher_check.chance_of(runner)(64) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (
            dict(check_teacher=-1),
            'check_teacher=-1; needed: a number of validation images, 0 for none',
        ),
        (
            dict(check_teacher=8),
            'check_teacher=8: there is no teacher; leave it out, or add --distill',
        ),
    ],
)
def test_wrong_options_are_answered(options, words, shapes):
    cfg = h.runner_config('classifier', 'work', shapes)
    cfg.work_dir = None
    with pytest.raises(InputError) as error:
        training_config(cfg, **options)
    assert words in str(error.value)


def test_without_validation_there_is_nothing_to_evaluate(shapes):
    cfg = h.runner_config('classifier', 'work', shapes)
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg = mmkd.distill(cfg, 'pkd', 't.py', 't.pth')
    with pytest.raises(
        InputError, match='check_teacher=8: val_dataloader is missing in the config'
    ):
        teacher_check.refuse_wrong_check({**cfg, 'check_teacher': 8})
