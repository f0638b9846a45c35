"""Evaluation: only a checkpoint that fits its config gives metrics."""

import helpers as h
import pytest
import torch

import mmkd
from mmkd.commands.test import evaluate, evaluation_config
from mmkd.family.building import build_model


@pytest.fixture
def config(shapes, tmp_path):
    return h.runner_config('retinanet', tmp_path / 'work', shapes)


def saved(model, path):
    torch.save(dict(state_dict=build_model({'_scope_': 'mmdet', **model}).state_dict()), path)
    return str(path)


def scored(cfg, checkpoint):
    return evaluate(evaluation_config(cfg, checkpoint))


def test_a_checkpoint_that_fits_is_evaluated_of_a_distillation_too(config, tmp_path):
    checkpoint = saved(config.model, tmp_path / 'own.pth')
    metrics = scored(config, checkpoint)
    assert 'coco/bbox_mAP' in metrics
    cfg = mmkd.distill(config, 'pkd', teacher='t.py', checkpoint='t.pth')
    assert scored(cfg, checkpoint) == metrics


@pytest.mark.parametrize(
    ('other', 'words'),
    [
        (lambda cfg: h.retinanet(width=16), ['misshaped', '(16,) in the file, (8,) in the model']),
        (lambda cfg: h.classifier(), ['missing (bbox_head.', '2 unexpected (head.fc.bias']),
        (lambda cfg: h.faster_rcnn(), ['missing (bbox_head.']),
    ],
    ids=['wider', 'classifier', 'other head'],
)
def test_a_checkpoint_of_another_model_gives_no_metrics(other, words, config, tmp_path):
    checkpoint = saved(other(config), tmp_path / 'other.pth')
    text = h.message_of(scored, config, checkpoint)
    assert text.startswith(f'checkpoint {checkpoint}: does not fit the config: ')
    assert all(word in text for word in words)


@pytest.mark.parametrize('name', ['test_dataloader', 'test_cfg', 'test_evaluator'])
def test_what_a_test_lacks_is_named(name, config, tmp_path):
    config[name] = None
    text = h.message_of(scored, config, saved(config.model, tmp_path / 'own.pth'))
    assert text.startswith(f'{name}: missing in the config')
