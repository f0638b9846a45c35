"""Sizes of images: what a pipeline makes, what a network states, and what is tried."""

import helpers as h
import pytest
from torch import nn

from mmkd.family.building import load_config
from mmkd.family.sizes import USUAL, pipeline_size, sizes_to_try, stated_sizes


@pytest.mark.parametrize(
    ('config', 'size'),
    [
        ('mmpretrain::lenet/lenet5_mnist.py', 32),
        ('mmpretrain::resnet/resnet18_8xb32_in1k.py', 224),
        ('mmdet::yolox/yolox_nano_8xb8-300e_coco.py', 416),
        ('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', 800),
        ('mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py', 1024),
    ],
)
def test_a_config_says_what_its_test_pipeline_makes(config, size):
    assert pipeline_size(load_config(config)) == size


@pytest.mark.parametrize(
    'pipeline', [[], [dict(type='RandomResize', scale=[(1, 2), (3, 4)])], ['a']]
)
def test_a_pipeline_without_a_size_says_none(pipeline):
    assert pipeline_size(dict(train_dataloader=dict(dataset=dict(pipeline=pipeline)))) is None


def test_data_sets_are_looked_into():
    inner = dict(pipeline=[dict(type='Resize', scale=(64, 48))])
    loader = dict(dataset=dict(type='Repeat', dataset=dict(type='Mix', dataset=inner)))
    assert pipeline_size(dict(val_dataloader=loader)) == 48


def test_networks_state_theirs():
    assert 224 in stated_sizes(h.build(h.transformer('vit')))
    assert stated_sizes(h.build(h.segmentor())) == [64]


@pytest.mark.parametrize(('stated', 'tried'), [(256, [256, *USUAL]), (1024, [*USUAL, 1024])])
def test_what_is_given_comes_first_then_what_is_stated_if_it_is_small(stated, tried):
    net = nn.Identity()
    net.img_size = stated
    assert sizes_to_try(net, [512, None]) == [512, *tried]
