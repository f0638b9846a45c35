"""Towers of the toolbox's heads, by structure."""

import helpers as h
import pytest
import torch

from mmkd import InputError
from mmkd.family.building import build_model, load_config, model_config
from mmkd.family.towers import Tower, answering, refuse_without_towers, towers_of


@pytest.mark.parametrize(
    ('source', 'count', 'depth'),
    [
        ('retinanet/retinanet_r18_fpn_1x_coco', 2, 4),
        ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco', 2, 4),
        ('atss/atss_r50_fpn_1x_coco', 2, 4),
        ('gfl/gfl_r50_fpn_1x_coco', 2, 4),
        ('tood/tood_r50_fpn_1x_coco', 1, 6),
        ('rtmdet/rtmdet_tiny_8xb32-300e_coco', 6, 2),
        ('yolox/yolox_tiny_8xb8-300e_coco', 6, 2),
        (
            'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco',
            1,
            3,
        ),  # one for each level, which CrossKD sees
        ('ssd/ssd300_coco', 0, 0),
        ('centernet/centernet_r18_8xb16-crop512-140e_coco', 0, 0),
    ],
)
def test_towers_of_the_toolbox(source, count, depth):
    towers = towers_of(build_model(model_config(load_config(f'mmdet::{source}.py'))))
    assert [len(tower.names) for tower in towers] == [depth] * count


def test_the_place_is_the_last_but_some_and_the_first_at_least():
    tower = Tower(('a', 'b', 'c', 'd'))
    assert [tower.place(last) for last in (1, 2, 9)] == [2, 1, 0]


def test_a_map_is_read_before_the_activation():
    model = h.build(h.gfl())
    assert towers_of(model)[0].before_activation(model, 0).at == 'bbox_head.cls_convs.0.gn'
    model = h.build(h.retinanet())
    assert towers_of(model)[0].before_activation(model, 0).at == 'bbox_head.cls_convs.0.conv'


def test_a_head_without_any_is_answered():
    model = build_model(model_config(load_config('mmdet::ssd/ssd300_coco.py')))
    with pytest.raises(InputError, match=r'X: SSDHead of the student has no tower'):
        refuse_without_towers('X', model, 'the student')


def test_modules_answer_call_by_call_and_are_left_as_they_were():
    net = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Tanh())
    net[1].forward = own = lambda x: x + 1
    one, two = torch.ones(1), torch.full((1,), 2.0)
    with answering(net, {'0': [one, two], '1': [one, two]}):
        assert [net(torch.zeros(1)).item() for _ in range(2)] == [1.0, 2.0]
    assert 'forward' not in vars(net[0])
    assert net[1].forward is own


def test_convolutions_of_other_parts_of_a_head_are_none():
    source = 'mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py'
    model = build_model(model_config(load_config(source)))
    names = [tower.names[0] for tower in towers_of(model)]
    assert names
    assert not [name for name in names if 'mask_head' in name]
    assert {*names} <= {
        name for name, _ in model.named_modules()
    }  # first names, where parts are shared
