"""Heads that do not compare are named, whichever method compares them."""

import helpers as h
import pytest
import torch
from mmdet.models.dense_heads import YOLOV3Head

from mmkd import InputError, Tap
from mmkd.core.likeness import (
    KINDS,
    refuse_boxes,
    refuse_mixed,
    refuse_other_heads,
    refuse_other_kinds,
)
from mmkd.core.step import Side
from mmkd.family.heads import head_kind


@pytest.mark.parametrize('family', h.FAMILIES)
def test_every_kind_has_words(family):
    model = h.build(h.FAMILIES[family]())
    kind = head_kind(model)
    refuse_other_heads('X', model, kind, 'the student')
    other = next(name for name in KINDS if name != kind)
    with pytest.raises(InputError, match=f'X is for {KINDS[other]}, the student .* {KINDS[kind]}'):
        refuse_other_heads('X', model, other, 'the student')


def test_kinds_of_both_sides_are_named():
    with pytest.raises(InputError, match=r"X: .*'vector'.*'dense'.*pkd"):
        refuse_other_kinds('X', h.build(h.classifier()), h.build(h.retinanet()))


def test_a_weight_of_boxes_that_do_not_compare_is_named():
    with pytest.raises(InputError, match=r'X: boxes=2\.0; the boxes of RetinaHead .*leave it out'):
        refuse_boxes('X', 2.0, h.build(h.retinanet()))


def test_class_scores_with_boxes_between_them_are_named():
    """YOLOv3's maps hold boxes, objectness and classes of each anchor in turn."""
    student = h.build(h.retinanet())
    student.bbox_head = YOLOV3Head(h.CLASSES, in_channels=[8, 8, 8], out_channels=[8, 8, 8])
    side = Side(student, {}, {Tap('bbox_head', item=0): [torch.Size([1, 27, 4, 4])]}, 'the student')
    with pytest.raises(
        InputError,
        match=r'X: tap .* YOLOV3Head .*\(1, 27, 4, 4\), no map of scores for 4 classes alone',
    ):
        refuse_mixed('X', side, [Tap('bbox_head', item=0)])
