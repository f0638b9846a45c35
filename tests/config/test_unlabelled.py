"""A config without its labels: pipelines that run on images alone, and the way back."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import helpers as h
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner

import mmkd
from mmkd.commands.export import export_student
from mmkd.config.conversion import plain_config
from mmkd.config.unlabelled import own_images, without_labels
from mmkd.family.building import load_config
from mmkd.files.checkpoints import read_checkpoint

ROOT = Path(__file__).parents[2]
PIPELINES = [
    'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'mmdet::detr/detr_r50_8xb2-150e_coco.py',
    'mmdet::ssd/ssd300_coco.py',
    'mmdet::fcos/fcos_r18_fpn_gn-head-center-normbbox-centeronreg-giou_8xb8-amp-lsj-200e_coco.py',
    'mmpretrain::resnet/resnet18_8xb32_in1k.py',
    'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
    'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
]


def scope_of(name):
    return name.partition('::')[0]


@pytest.mark.parametrize('name', PIPELINES)
def test_pipelines_of_the_toolboxes_run_on_images_alone(name, shapes):
    cfg = load_config(name)
    without_labels(cfg, shapes / 'images/train')
    with DefaultScope.overwrite_default_scope(scope_of(name)):
        data = DATASETS.build(copy.deepcopy(cfg.train_dataloader.dataset))
        items = [data[i] for i in range(2)]
    assert len(data) % 8 == 0  # some are repeated
    assert all(item['inputs'].shape[0] == 3 for item in items)


def test_the_images_are_those_of_the_config_unless_a_folder_is_given(shapes):
    cfg = h.runner_config('retinanet', 'work', shapes)
    assert own_images(cfg.train_dataloader.dataset) == shapes / 'images/train'
    without_labels(cfg)
    assert cfg.train_dataloader.dataset.folder == str(shapes / 'images/train')


def test_data_that_name_no_folder_are_named():
    message = h.message_of(own_images, dict(type='Mine'))
    assert (
        "train_dataloader.dataset.type='Mine' names no folder; give one: --no-labels FOLDER"
        in message
    )


def test_the_plain_config_is_what_it_was(shapes):
    cfg = h.runner_config('retinanet', 'work', shapes)
    distilled = mmkd.distill(cfg, 'pkd', teacher=cfg, checkpoint='untrained', no_labels=True)
    assert distilled.model.labels is False
    assert distilled.val_dataloader is None
    plain = plain_config(distilled)
    for name in ('train_dataloader', 'val_dataloader', 'val_evaluator', 'default_hooks'):
        assert plain[name] == cfg[name], name


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(no_labels='nowhere'), 'nowhere: no such folder'),
        (dict(no_labels='EMPTY'), 'no image in it'),
    ],
)
def test_folders_without_images_are_named(shapes, tmp_path, options, words):
    cfg = h.runner_config('retinanet', 'work', shapes)
    options = {
        name: str(tmp_path) if value == 'EMPTY' else value for name, value in options.items()
    }
    message = h.message_of(
        lambda: mmkd.distill(cfg, 'pkd', teacher=cfg, checkpoint='untrained', **options)
    )
    assert words in message


def test_a_student_is_taught_without_labels_and_then_trained_by_plain_tools(shapes, tmp_path):
    """From the command line, by a ViT of another package; heads unchanged, then everything is trained."""
    h.outside('timm')
    cfg = h.runner_config('rtmdet', tmp_path / 'work', shapes)
    cfg.default_hooks.checkpoint.save_best = 'auto'
    cfg.dump(tmp_path / 'student.py')
    env = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{h.TEACHERS}'}
    line = [
        str(ROOT / 'tools/train.py'), str(tmp_path / 'student.py'), '--distill', 'pkd',
        '--teacher', 'timm::test_vit', '--teacher-checkpoint', 'untrained',
        '--no-labels', str(shapes / 'images'), '--work-dir', str(tmp_path / 'taught'),
        '--cfg-options', 'log_level=INFO', 'randomness.seed=1', 'train_cfg.max_epochs=1',
    ]  # fmt: skip
    result = subprocess.run([sys.executable, *line], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'pkd/loss' in result.stdout + result.stderr
    trained = tmp_path / 'taught/student.py'
    file = tmp_path / 'taught/epoch_1.pth'
    config, weights = export_student(trained, file, tmp_path / 'exported')
    assert 'mmkd' not in config.read_text()
    fine = Config.fromfile(config)
    fine.load_from, fine.work_dir, fine.train_cfg.max_epochs = (
        str(weights),
        str(tmp_path / 'fine'),
        1,
    )
    Runner.from_cfg(fine).train()
    before, after = (
        read_checkpoint(path)['state_dict'] for path in (weights, tmp_path / 'fine/epoch_1.pth')
    )
    assert any(not torch.equal(before[n], after[n]) for n in before if n.startswith('bbox_head'))
