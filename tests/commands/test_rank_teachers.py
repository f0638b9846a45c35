import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import helpers as h
import numpy as np
import pytest
import torch
from mmengine.config import Config
from rich.console import Console

from mmkd import InputError
from mmkd.commands.rank_teachers import (
    Measurement,
    choose,
    parse_teacher,
    parse_teachers,
    rank_teachers,
    score_of,
    student_config,
    training_batches,
)
from mmkd.commands.test import evaluate, evaluation_config
from mmkd.family.building import build_model, model_config

TOOL = Path(__file__).parents[2] / 'tools/rank_teachers.py'
OPTIONS = dict(images=8, score=False, console=Console(quiet=True))


def write(folder, name, cfg, seed=0, **model):
    """A config and a checkpoint of its model, with predictions that depend on the image."""
    cfg = Config(cfg.to_dict())
    cfg.merge_from_dict({f'model.{key}': value for key, value in model.items()})
    torch.manual_seed(seed)
    network = build_model(model_config(cfg))
    network.init_weights()
    cfg.dump(folder / f'{name}.py')
    torch.save(dict(state_dict=network.state_dict()), folder / f'{name}.pth')
    return f'{folder / name}.py:{folder / name}.pth'


@pytest.fixture
def classifiers(shapes, tmp_path):
    """A student and two teachers of other weights, of which one is twice as wide."""
    cfg = h.runner_config('classifier', tmp_path / 'work', shapes)
    cfg.train_dataloader.batch_size = 4
    wide = dict(
        backbone=dict(base_channels=16, stem_channels=16),
        head=dict(in_channels=128),
        data_preprocessor=dict(mean=[100.0, 110.0, 120.0]),
    )
    return dict(
        folder=tmp_path,
        student=write(tmp_path, 'student', cfg),
        other=write(tmp_path, 'other', cfg, seed=1),
        wide=write(tmp_path, 'wide', cfg, seed=2, **wide),
    )


def measured(name, score, gap, seconds=0.1, parameters=10):
    return Measurement(name, parameters, seconds, {'P5': gap}, score)


def detector(shapes, folder):
    """A student's config with images of 64 pixels."""
    cfg = h.runner_config('retinanet', folder / 'work', shapes)
    for part in ('train', 'val'):
        for step in cfg[f'{part}_dataloader'].dataset.pipeline:
            if step.type == 'Resize':
                step.scale = (64, 64)
    return cfg


# -- measuring -------------------------------------------------------------------------------------


def test_the_students_own_twin_has_no_gap_and_others_have(classifiers):
    student = classifiers['folder'] / 'student'
    ranking = rank_teachers(
        f'{student}.py',
        [classifiers[name] for name in ('student', 'other', 'wide')],
        student_checkpoint=f'{student}.pth',
        **OPTIONS,
    )
    twin, other, wide = ranking.teachers
    assert list(twin.gaps) == ['layer3', 'layer4']
    assert max(map(abs, twin.gaps.values())) < 1e-6
    assert min(other.gaps.values()) > 0.01
    assert min(wide.gaps.values()) > 0.01
    assert (ranking.images, ranking.batches, ranking.start) == (8, 2, f'{student}.pth')
    assert (
        wide.parameters
        == sum(p.numel() for p in build_model(h.classifier(width=16)).parameters())
        + (6 - h.CLASSES) * 129
    )
    assert 0 < twin.seconds < 1


def independent_cka(pairs):
    """Minibatch CKA by the definition of the unbiased HSIC, in NumPy."""

    def hsic(first, second):
        n, one = len(first), np.ones(len(first))
        k, m = (kernel - np.diag(np.diag(kernel)) for kernel in (first, second))
        middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return (np.trace(k @ m) + middle - 2 / (n - 2) * one @ k @ m @ one) / (n * (n - 3))

    flat = [[maps.reshape(len(maps), -1) for maps in pair] for pair in pairs]
    kernels = [[maps @ maps.T for maps in pair] for pair in flat]
    xy, xx, yy = (np.mean([hsic(k[i], k[j]) for k in kernels]) for i, j in ((0, 1), (0, 0), (1, 1)))
    return xy / np.sqrt(xx * yy)


def test_the_gap_is_that_of_the_definition(classifiers):
    """With the teacher's own normalisation, computed here from the pixels."""
    names = ('student', 'wide')
    folder = classifiers['folder']
    ranking = rank_teachers(
        folder / 'student.py', [classifiers['wide']],
        student_checkpoint=folder / 'student.pth', **OPTIONS,
    )  # fmt: skip
    models, maps = {}, {}
    for name in names:
        models[name] = build_model(model_config(Config.fromfile(folder / f'{name}.py'))).eval()
        models[name].load_state_dict(torch.load(folder / f'{name}.pth')['state_dict'])
        models[name].backbone.layer4.register_forward_hook(
            lambda module, inputs, output, name=name: maps.setdefault(name, []).append(
                output.detach().double().numpy()
            )
        )
    for batch in training_batches(Config.fromfile(folder / 'student.py'), 8):
        for model in models.values():
            model(model.data_preprocessor(batch)['inputs'])
    expected = 1 - independent_cka(list(zip(maps['student'], maps['wide'])))
    assert ranking.teachers[0].gaps['layer4'] == pytest.approx(expected, abs=1e-4)


def test_without_a_checkpoint_the_student_is_where_its_training_starts(classifiers):
    weights = classifiers['folder'] / 'student.pth'
    ranking = rank_teachers(
        classifiers['folder'] / 'student.py', [classifiers['student']],
        cfg_options=dict(load_from=str(weights)), **OPTIONS,
    )  # fmt: skip
    assert ranking.start == str(weights)
    assert ranking.teachers[0].mean_gap == pytest.approx(0, abs=1e-6)


def test_the_score_is_what_the_teacher_reaches_alone(classifiers, monkeypatch):
    """The teacher keeps its own preprocessor; the student's hooks play no part."""
    folder = classifiers['folder']
    teacher, checkpoint = parse_teacher(classifiers['wide'])
    alone = evaluate(evaluation_config(teacher, checkpoint, work_dir=str(folder / 'alone')))
    cfg = student_config(
        folder / 'student.py', dict(custom_hooks=[dict(type='EMAHook')], work_dir='gone')
    )
    assert score_of(cfg, teacher, checkpoint) == ('accuracy/top1', alone['accuracy/top1'])
    monkeypatch.setattr(
        'mmkd.commands.rank_teachers.evaluate',
        lambda cfg, trust: dict(a=1.0, b=2.0, c=float('nan')),
    )
    cfg.default_hooks.checkpoint.save_best = ['b', 'a']
    assert score_of(cfg, teacher, checkpoint) == ('b', 2.0)
    cfg.default_hooks.checkpoint.save_best = 'auto'
    assert score_of(cfg, teacher, checkpoint) == ('a', 1.0)
    cfg.default_hooks.checkpoint.save_best = 'c'
    with pytest.raises(InputError, match=r'wide\.pth: val_evaluator gives no number.*--no-score'):
        score_of(cfg, teacher, checkpoint)


@pytest.mark.parametrize(
    ('batch', 'images', 'sizes'), [(2, 8, [4, 4]), (4, 7, [7]), (64, 64, [8]), (3, 64, [4, 4])]
)
def test_batches_have_four_images_or_more(shapes, tmp_path, batch, images, sizes):
    cfg = detector(shapes, tmp_path)
    cfg.train_dataloader.batch_size = batch
    first, again = training_batches(cfg, images), training_batches(cfg, images)
    assert [len(b['inputs']) for b in first] == sizes
    assert all(
        torch.equal(x, y) for b, c in zip(first, again) for x, y in zip(b['inputs'], c['inputs'])
    )


# -- the choice ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('teachers', 'choice', 'words'),
    [
        # the best score by far, though it is farther off and dearer
        ([('a', 0.40, 0.9, 9.0), ('b', 0.39, 0.1, 1.0)], 'a', 'best by more than 1 %'),
        # within 1 % of the best the smaller gap
        ([('a', 0.400, 0.9, 1.0), ('b', 0.397, 0.1, 9.0)], 'b', 'mean gap of 0.100 is the smallest'),
        # gaps alike: the cheaper one
        ([('a', 0.400, 0.30, 9.0), ('b', 0.397, 0.34, 1.0)], 'b', 'the cheapest of them at 1000.00'),
        # the nearest of all is weak, and no rival
        ([('a', 50.0, 0.5, 9.0), ('b', 49.9, 0.8, 1.0), ('c', 20, 0.0, 0.1)], 'a', 'of the 2 teachers'),
        # a gap that is undefined is none that is small
        ([('a', 1.0, float('nan'), 1.0), ('b', 1.0, 0.9, 9.0)], 'b', 'smallest'),
        ([('a', 1.0, 0.9, 1.0)], 'a', 'the only one'),
        ([('a', 0.0, 0.1, 1.0), ('b', 0.0, 0.2, 1.0)], None, 'none of these has learnt'),
        ([('a', None, 0.1, 1.0), ('b', None, 0.9, 1.0)], None, 'without a score'),
    ],
)  # fmt: skip
def test_the_rule(teachers, choice, words):
    name, reason = choose([measured(*teacher) for teacher in teachers])
    assert name == choice
    assert words in reason
    assert ("the rule is ours, not the DPK paper's" in reason) == (choice is not None)


def test_of_equally_fast_teachers_the_smaller_one():
    assert choose([measured('a', 1, 0.1), measured('b', 1, 0.1, parameters=9)])[0] == 'b'


# -- wrong input -----------------------------------------------------------------------------------


def test_specs():
    zoo = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
    assert parse_teacher('a:b.py:c.pth') == ('a:b.py', 'c.pth')
    assert parse_teacher(f'{zoo}:https://host:80/c.pth') == (zoo, 'https://host:80/c.pth')
    config, checkpoint = parse_teacher(zoo)
    assert config == zoo
    assert checkpoint.startswith('https://')
    assert checkpoint.endswith('.pth')
    assert list(parse_teachers(['a/t.py:c.pth', 'b/t.py:c.pth'])) == [
        'a/t.py:c.pth',
        'b/t.py:c.pth',
    ]


@pytest.mark.parametrize(
    ('specs', 'words'),
    [
        (['t.py'], ["--teachers 't.py'", 'needed: CONFIG:CHECKPOINT']),
        (['t.py:'], ["--teachers 't.py:'", 'needed: CONFIG:CHECKPOINT']),
        ([':c.pth'], ["--teachers ':c.pth'", 'needed: CONFIG:CHECKPOINT']),
        (['mmdet::retinanet/gone.py'], ['config mmdet::retinanet/gone.py: no such file']),
        (['mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'] * 2, ['given more than once']),
        (['t.py:c.pth', './t.py:c.pth'], ['--teachers t.py:c.pth: given more than once']),
    ],
)
def test_wrong_specs_are_named(specs, words):
    with pytest.raises(InputError) as error:
        parse_teachers(specs)
    assert all(word in str(error.value) for word in words)


def test_three_images_are_too_few(classifiers, shapes, tmp_path):
    with pytest.raises(InputError, match='--images 3: give 4 or more'):
        rank_teachers('gone.py', ['t.py:c.pth'], images=3)
    cfg = detector(shapes, tmp_path)
    cfg.train_dataloader.dataset.indices = 3
    with pytest.raises(InputError, match=r'train_dataloader: no batch of 4 images'):
        training_batches(cfg, 8)


def test_a_student_that_cannot_be_used_is_named(classifiers):
    import mmkd

    cfg = Config.fromfile(classifiers['folder'] / 'student.py')
    with pytest.raises(InputError, match=r'is a Distiller; give the plain config'):
        student_config(mmkd.distill(cfg, 'pkd', teacher='t.py', checkpoint='t.pth'))
    with pytest.raises(InputError, match=r'val_dataloader: missing in .*; add it, or --no-score'):
        student_config(cfg, dict(val_dataloader=None))
    with pytest.raises(InputError, match=r'gone does not exist'):
        student_config(cfg, {'train_dataloader.dataset.data_root': 'gone'})


def test_a_teacher_of_other_classes_is_not_scored_but_has_a_gap(classifiers):
    folder = classifiers['folder']
    cfg = Config.fromfile(folder / 'student.py')
    more = write(folder, 'more', cfg, head=dict(num_classes=9))
    with pytest.raises(
        InputError, match=r"teacher 'more' has 9 classes, the student 6.*--no-score"
    ):
        rank_teachers(folder / 'student.py', [more])
    teachers = rank_teachers(
        folder / 'student.py', [classifiers['other'], more], **OPTIONS
    ).teachers
    assert list(teachers[0].gaps) == list(teachers[1].gaps)


def test_a_teacher_with_other_levels_is_compared_where_strides_are_alike(shapes, tmp_path):
    cfg = detector(shapes, tmp_path)
    student = write(tmp_path, 'student', cfg).split(':')[0]
    fewer = dict(
        neck=dict(num_outs=4), bbox_head=dict(anchor_generator=dict(strides=[8, 16, 32, 64]))
    )
    specs = [write(tmp_path, 'alike', cfg), write(tmp_path, 'fewer', cfg, **fewer)]
    alike, other = rank_teachers(student, specs, **OPTIONS).teachers
    assert (list(alike.gaps), list(other.gaps)) == (['P4', 'P5', 'P6', 'P7'], ['P4', 'P5', 'P6'])


# -- the tool --------------------------------------------------------------------------------------


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run the tool in this process; what it prints."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, arguments)])
        runpy.run_path(str(TOOL), run_name='__main__')
        return capsys.readouterr().out

    return run


def test_the_tool_chooses_a_classifier(classifiers):
    folder, out = classifiers['folder'], classifiers['folder'] / 'out/numbers.json'
    result = subprocess.run(
        [sys.executable, TOOL, folder / 'student.py', '--teachers', classifiers['other'],
         classifiers['wide'], '--images', '8', '--out', out,
         '--cfg-options', 'train_dataloader.batch_size=8'],
        capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert 'accuracy/top1' in result.stdout
    assert (
        '8 training images in 1 batches; the student is at its own initialisation' in result.stdout
    )
    numbers = json.loads(out.read_text())
    other, wide = numbers['teachers']
    assert (other['name'], wide['name']) == ('other', 'wide')
    assert set(other['gaps']) == {'layer3', 'layer4', 'mean'}
    expected = 'No choice' if numbers['choice'] is None else f'Take {numbers["choice"]}'
    assert f'{expected}: {numbers["reason"]}.' in result.stdout
    again = rank_teachers(
        folder / 'student.py', [classifiers['wide']],
        cfg_options={'train_dataloader.batch_size': 8}, **OPTIONS,
    )  # fmt: skip
    assert again.teachers[0].mean_gap == pytest.approx(wide['gaps']['mean'], abs=1e-4)


def test_the_tool_measures_detectors(shapes, tmp_path, tool):
    cfg = detector(shapes, tmp_path)
    student = write(tmp_path, 'student', cfg)
    wide = write(tmp_path, 'wide', cfg, seed=1, backbone=dict(base_channels=16),
                 neck=dict(in_channels=[16, 32, 64, 128]))  # fmt: skip
    config, weights = student.split(':')
    printed = tool(
        config, '--teachers', student, wide, '--student-checkpoint', weights, '--images', 8
    )
    twin, other = (
        [cell.strip() for cell in line.split('│')[1:-1]]
        for line in printed.splitlines()
        if line.startswith('│')
    )
    assert 'coco/bbox_mAP' in printed
    assert 'gap P4' in printed
    assert set(twin[4:]) <= {'0.000', '-0.000'}
    assert float(other[-1]) > 0.01


def test_the_tool_answers_wrong_input_in_one_line(tool, capsys):
    with pytest.raises(SystemExit) as stop:
        tool('student.py', '--teachers', 'r50.py', '--no-score')
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: --teachers 'r50.py': names no checkpoint")


def test_a_backbone_of_another_package_has_gaps_and_no_score(classifiers):
    h.outside('timm')
    student, teachers = str(classifiers['folder'] / 'student.py'), ['timm::test_convnext:untrained']
    (found,) = rank_teachers(student, teachers, **OPTIONS).teachers
    assert found.gaps
    message = h.message_of(lambda: rank_teachers(student, teachers, **{**OPTIONS, 'score': True}))
    assert 'has None classes' in message
    assert '--no-score' in message
