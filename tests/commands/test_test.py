"""What ``tools/test.py`` makes of a config and a checkpoint."""

import helpers as h
import pytest
import torch
from mmengine.runner import Runner

import mmkd
from mmkd.commands.test import evaluate, evaluation_config


@pytest.fixture
def config(shapes, tmp_path):
    """A plain config whose data is there, without a place for its files."""
    cfg = h.runner_config('retinanet', 'work', shapes)
    cfg.work_dir = None
    return cfg


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'c.pth'
    torch.save(dict(state_dict={}), path)
    return str(path)


def test_testing_a_distillation_needs_no_teacher(config, checkpoint):
    cfg = mmkd.distill(config, 'pkd', teacher='gone.py', checkpoint='gone.pth')
    plain = evaluation_config(cfg, checkpoint)
    assert plain.model == config.model
    assert 'custom_hooks' not in plain


def test_the_checkpoint_is_loaded_and_nothing_resumed(config, checkpoint):
    config.resume = True
    cfg = evaluation_config(config, checkpoint, work_dir='there', launcher='slurm')
    assert (cfg.load_from, cfg.resume) == (checkpoint, False)
    assert (cfg.work_dir, cfg.launcher) == ('there', 'slurm')


def test_the_work_dir_is_the_configs_or_named_after_it(config, checkpoint, tmp_path):
    config.dump(tmp_path / 'mine.py')
    assert evaluation_config(tmp_path / 'mine.py', checkpoint).work_dir == 'work_dirs/mine'
    config.work_dir = 'own'
    assert evaluation_config(config, checkpoint).work_dir == 'own'


def test_overrides_reach_the_student(config, checkpoint):
    cfg = mmkd.distill(config, 'pkd', teacher='gone.py', checkpoint='gone.pth')
    options = {'model.test_cfg.max_per_img': 3}
    assert evaluation_config(cfg, checkpoint, cfg_options=options).model.test_cfg.max_per_img == 3


def test_test_time_augmentation_wraps_the_model(config, checkpoint):
    config.tta_model = dict(type='mmdet.DetTTAModel', tta_cfg=dict(max_per_img=5))
    config.tta_pipeline = [dict(type='TestTimeAug')]
    cfg = evaluation_config(config, checkpoint, tta=True)
    assert cfg.model == dict(config.tta_model, module=config.model)
    assert cfg.test_dataloader.dataset.pipeline == config.tta_pipeline


def test_wrong_input_is_named(config, checkpoint):
    text = h.message_of(lambda: evaluation_config(config, checkpoint, tta=True))
    assert text.startswith('--tta: the config has no tta_model and tta_pipeline')
    assert 'gone.pth: no such file' in h.message_of(evaluation_config, config, 'gone.pth')
    config.test_dataloader.dataset.data_root = 'gone/shapes/'
    text = h.message_of(evaluation_config, config, checkpoint)
    assert text.startswith(
        'data set missing: test_dataloader.dataset.data_root: gone/shapes does not exist'
    )


def test_the_metrics_are_those_of_the_plain_runner(config, tmp_path):
    torch.save(dict(state_dict=h.build(h.retinanet()).state_dict()), tmp_path / 's.pth')
    config.model.bbox_head.num_classes = h.CLASSES
    cfg = evaluation_config(config, str(tmp_path / 's.pth'), work_dir=str(tmp_path / 'ours'))
    ours = evaluate(cfg)
    cfg.work_dir = str(tmp_path / 'theirs')
    assert ours == Runner.from_cfg(cfg).test()
    assert 'coco/bbox_mAP' in ours
