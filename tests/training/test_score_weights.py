"""A plain training on boxes with scores: what the hook changes, and that it changes nothing else."""

import json
import re
import shutil

import helpers as h
import pytest
import torch
from mmengine.runner import Runner

from mmkd import InputError
from mmkd.commands.train import training_config
from mmkd.training.score_weights import WeighByScore

PAGE = h.ROOT / 'docs/pseudo_labels.md'


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


def test_the_config_of_the_page_trains_and_the_command_adds_the_hook(shapes, tmp_path, monkeypatch):
    (code,) = re.findall(r'```python\n(_base_.*?)```', PAGE.read_text(), re.S)
    base = h.runner_config('retinanet', tmp_path / 'work', shapes)
    base.train_pipeline = base.train_dataloader.dataset.pipeline
    base.train_cfg.update(max_epochs=1, val_interval=9)
    base.val_cfg = base.val_dataloader = base.val_evaluator = None
    base.dump(tmp_path / 'my_student.py')
    shutil.copy(shapes / 'annotations/train.json', tmp_path / 'pseudo.json')
    names = repr(tuple(base.train_dataloader.dataset.metainfo.classes))
    code = code.replace("('cat', 'dog')", names)
    code = code.replace('data/unlabelled', f'{shapes}/images/train')
    (tmp_path / 'my_pseudo.py').write_text(code)
    monkeypatch.chdir(tmp_path)
    cfg = training_config('my_pseudo.py')
    hooks = [hook['type'] for hook in cfg.custom_hooks]
    assert hooks == ['mmkd.WeighByScore']
    data = cfg.train_dataloader.dataset
    assert [d.type for d in data.datasets] == ['CocoDataset', 'mmkd.PseudoCoco']
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert len(runner.train_dataloader.dataset) == 16
    (tmp_path / 'bare.py').write_text("_base_ = ['my_pseudo.py']\ncustom_hooks = []\n")
    assert [h['type'] for h in training_config('bare.py').custom_hooks] == ['mmkd.WeighByScore']
    options = {'train_dataloader.dataset.datasets.1.weight_by_score': False}
    assert training_config('bare.py', cfg_options=options).custom_hooks == []
