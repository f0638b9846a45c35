"""A plain training on boxes with scores: what the hook changes, and that it changes nothing else."""

import json

import helpers as h
import pytest
import torch
from mmengine.runner import Runner

from mmkd import InputError
from mmkd.training.score_weights import WeighByScore


def trained(shapes, folder, score, hook=True, family='retinanet'):
    """The weights after one step on boxes of a score; without a score the labels are the real ones."""
    cfg = h.runner_config(family, folder / f'work{score}{hook}', shapes)
    data = cfg.train_dataloader.dataset
    if score is not None:
        content = json.loads((shapes / 'annotations/train.json').read_text())
        for annotation in content['annotations']:
            annotation['score'] = score
        (folder / f'{score}.json').write_text(json.dumps(content))
        data.type, data.ann_file = 'mmkd.PseudoCoco', str(folder / f'{score}.json')
    data.indices = 2
    cfg.train_cfg.update(max_epochs=1, val_interval=9)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.randomness = dict(seed=0)
    cfg.optim_wrapper.optimizer.update(momentum=0.0, weight_decay=0.0)
    cfg.custom_hooks = [dict(type='mmkd.WeighByScore')] if hook else []
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner.model


def test_sure_boxes_train_like_real_ones_and_others_by_their_score(shapes, tmp_path):
    real, sure, unsure, ignored = (
        trained(shapes, tmp_path, *how).bbox_head.retina_reg.weight.detach()
        for how in ((None, False), (1.0,), (0.5,), (0.5, False))
    )
    torch.manual_seed(0)
    start = h.build(h.retinanet()).bbox_head.retina_reg.weight
    assert start.shape == real.shape
    assert torch.equal(real, sure)
    assert torch.equal(real, ignored)  # nobody weighs
    assert not torch.equal(real, unsure)
    none = trained(shapes, tmp_path, 0.0).bbox_head.retina_reg.weight.detach()
    torch.testing.assert_close(unsure - none, (real - none) / 2, rtol=1e-3, atol=1e-7)


def test_the_model_is_left_as_it_was(shapes, tmp_path):
    head = trained(shapes, tmp_path, 0.5).bbox_head
    assert not {'loss_by_feat', '_get_targets_single'} & vars(head).keys()
    assert 'sample' not in vars(head.sampler)


def test_a_head_that_cannot_weigh_stops_before_the_first_iteration(shapes, tmp_path):
    with pytest.raises(InputError, match='WeighByScore: FCOSHead assigns objects in a way'):
        trained(shapes, tmp_path, 0.5, family='fcos')


def test_scores_of_mixed_images_are_read_before_the_step():
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    from mmkd.datasets.scores import with_score

    sample = DetDataSample()
    sample.gt_instances = InstanceData(labels=torch.tensor([with_score(2, 0.5)]))
    WeighByScore().before_train_iter(None, 0, dict(data_samples=[sample]))
    assert sample.gt_instances.scores.tolist() == [0.5]
