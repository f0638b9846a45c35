"""Which anchors hold an object, as the heads' own losses are told."""

import helpers as h
import pytest
import torch

from mmkd import InputError
from mmkd.family.assigned import class_loss_taps, positive_rows
from mmkd.family.building import build_model, load_config, model_config
from mmkd.family.taps import capture


@pytest.mark.parametrize('family', ['retinanet', 'gfl', 'fcos', 'rtmdet'])
def test_they_are_the_anchors_that_the_boxes_are_learnt_at(family):
    model = h.build(h.FAMILIES[family]())
    batch = model.data_preprocessor(h.raw_batch(family), True)
    taps = class_loss_taps(model)
    places = [*(tap.place for tap in taps), ('bbox_head', 'output')]
    places.append(('bbox_head.loss_bbox', 'input'))
    with capture(model, places) as features:
        model(**batch, mode='loss')
    rows = positive_rows(features, taps, model)
    (answers,) = (calls for (at, _), calls in features._calls.items() if at == 'bbox_head')
    assert len(rows) == sum(level.numel() for level in answers[0][0]) // h.CLASSES
    boxes = features._calls['bbox_head.loss_bbox', 'input']
    if family == 'retinanet':  # all anchors, most with weight 0
        learnt = sum(int(call[2].any(-1).sum()) for call in boxes)
    else:
        learnt = sum(len(call[0]) for call in boxes)
    assert int(rows.sum()) == learnt > 0


def test_chances_for_each_class_count_where_one_is_above_zero():
    model = h.build(h.retinanet())
    taps = class_loss_taps(model)
    with capture(model.bbox_head, [('loss_cls', 'input')]) as features:
        model.bbox_head.loss_cls(torch.zeros(2, 4), torch.eye(4)[:2] * torch.tensor([[0.5], [0.0]]))
    features._calls = {taps[0].place: features._calls['loss_cls', 'input']}
    assert positive_rows(features, taps, model).tolist() == [True, False]


def test_a_head_whose_loss_is_no_module_is_answered():
    model = build_model(model_config(load_config('mmdet::ssd/ssd300_coco.py')))
    with pytest.raises(InputError, match=r'SSDHead has no module loss_cls'):
        class_loss_taps(model)


def test_a_loss_that_was_not_called_gives_no_rows():
    model = h.build(h.retinanet())
    with capture(model, [('neck', 'output')]) as features:
        model(torch.zeros(1, 3, 64, 64), mode='tensor')
    assert positive_rows(features, class_loss_taps(model), model).shape == (0,)
