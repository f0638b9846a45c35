"""What of a dense head follows a teacher's; the terms themselves are tested with the methods."""

import pytest

from mmkd.family.building import build_model, load_config, model_config
from mmkd.family.mimicry import Mimicry


@pytest.mark.parametrize(
    ('source', 'boxes'),
    [
        ('gfl/gfl_r50_fpn_1x_coco', True),
        ('tood/tood_r50_fpn_1x_coco', True),
        ('foveabox/fovea_r50_fpn_4xb4-1x_coco', False),
    ],
)
def test_boxes_are_read_where_they_compare(source, boxes):
    model = build_model(model_config(load_config(f'mmdet::{source}.py')))
    assert [tap.item for tap in Mimicry.of(model, model, False).taps] == ([0, 1] if boxes else [0])
