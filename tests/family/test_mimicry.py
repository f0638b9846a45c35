"""What of a dense head follows a teacher's; the terms themselves are tested with the methods."""

import helpers as h
import pytest
import torch

from mmkd import InputError
from mmkd.family.building import build_model, load_config, model_config
from mmkd.family.mimicry import Mimicry


def test_a_head_whose_maps_hold_boxes_too_is_answered():
    source = 'mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py'
    model = build_model(model_config(load_config(source)))
    with pytest.raises(
        InputError, match=r'YOLOV3Head of the student has no class scores by anchor or point'
    ):
        Mimicry.of(model, model, True)


@pytest.mark.parametrize(
    ('source', 'boxes'),
    [
        ('gfl/gfl_r50_fpn_1x_coco', True),
        ('tood/tood_r50_fpn_1x_coco', True),
        ('vfnet/vfnet_r50_fpn_1x_coco', False),  # in training unrefined boxes
        ('foveabox/fovea_r50_fpn_4xb4-1x_coco', False),
    ],
)
def test_boxes_are_read_where_they_compare(source, boxes):
    model = build_model(model_config(load_config(f'mmdet::{source}.py')))
    assert [tap.item for tap in Mimicry.of(model, model, True).taps] == ([0, 1] if boxes else [0])


def test_an_fcos_whose_boxes_are_in_strides_in_training_agrees_with_itself():
    config = h.fcos()
    config.bbox_head.norm_on_bbox = True
    model = h.distiller(config, config, bckd=dict(type='mmkd.BCKD'))
    model.distillation.check_gradients = False
    torch.nn.init.constant_(model.bbox_head.conv_reg.bias, 2.0)  # boxes with an area
    state = {k: v for k, v in model.state_dict().items() if 'distillation.' not in k}
    model.distillation.teachers['teacher'].model.load_state_dict(state)
    h.freeze_statistics(model.train())
    assert h.losses_of(model, 'fcos')['bckd/loss_boxes'].item() == pytest.approx(0, abs=1e-5)
