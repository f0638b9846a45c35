"""Places in RoI heads, and the boxes that belong to them."""

import helpers as h
import pytest
import torch

from mmkd import Tap
from mmkd.family.roi import box_tap, drive, in_roi_head, roi_part
from mmkd.family.taps import capture


@pytest.mark.parametrize(
    ('at', 'inside', 'part'),
    [
        ('neck', False, None),
        ('roi_head', False, None),
        ('roi_head.bbox_head', True, ('bbox', None)),
        ('roi_head.bbox_head.fc_cls', True, ('bbox', None)),
        ('roi_head.bbox_head.0', True, ('bbox', 0)),
        ('roi_head.bbox_head.2.fc_cls', True, ('bbox', 2)),
        ('roi_head.mask_head', True, ('mask', None)),
        ('roi_head.mask_head.1.loss_mask', True, ('mask', 1)),
        ('rpn_head.rpn_cls', False, None),
    ],
)
def test_a_tap_says_whether_it_is_inside_and_in_which_part(at, inside, part):
    assert in_roi_head(Tap(at)) == inside
    assert not inside or roi_part(Tap(at)) == part


@pytest.mark.parametrize(('family', 'stage'), [('faster_rcnn', ''), ('cascade_rcnn', '.1')])
def test_boxes_pass_where_they_are_said_to(family, stage):
    model = h.build(h.FAMILIES[family]()).eval()
    batch = model.data_preprocessor(h.raw_batch(family))
    logits = Tap(f'roi_head.bbox_head{stage}', item=0)
    boxes = box_tap(logits)
    with torch.no_grad(), capture(model, [logits.place, boxes.place]) as features:
        model(**batch, mode='tensor')
    maps, rois = features.calls(boxes)[0]
    assert [tuple(level.shape[-2:]) for level in maps] == [(n, n) for n in (16, 8, 4, 2)]
    assert rois.shape == (len(features[logits][0]), 5)


def test_what_a_roi_head_knows_of_the_whole_image_goes_with_the_boxes():
    """As in HTC: without it a teacher would answer what it never answers."""
    given = []

    class Head:
        def semantic_head(self, maps):
            return 'prediction', maps + 1

        def _bbox_forward(self, stage, maps, boxes, semantic_feat=None):
            given.append((stage, maps, boxes, semantic_feat))

    drive(Head(), 1, {('bbox', 0): 'boxes', ('bbox', 2): 'others'})
    assert given == [(0, 1, 'boxes', 2), (2, 1, 'others', 2)]
