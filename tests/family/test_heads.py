"""Where class logits are made, and of what kind they are."""

import helpers as h
import pytest
import torch
from mmdet.models.dense_heads import CenterNetHead, CornerHead
from torch import nn

from mmkd.errors import InputError
from mmkd.family.heads import head_kind, is_sigmoid, logit_head, logit_taps, refuse_queries
from mmkd.family.logits import LogitDivergence
from mmkd.family.taps import Tap, capture
from mmkd.methods import CWD

HEADS = {
    'classifier': ('vector', False),
    'segmentor': ('pixel', False),
    'softmax': ('dense', False),
    'faster_rcnn': ('roi', False),
    'cascade_rcnn': ('roi', False),
    'mask_rcnn': ('roi', False),
    'dino': ('query', True),
    'deformable_detr': ('query', True),
    'dab_detr': ('query', True),
    'binned_detr': ('query', True),
}
"""Of the families that are not dense and sigmoid."""


def classes_of(logits, kind, head):
    """How many class scores lie side by side."""
    if kind in ('pixel', 'dense'):
        return logits.shape[1] // (head.num_base_priors if kind == 'dense' else 1)
    return logits.shape[-1]


@pytest.mark.parametrize('family', h.FAMILIES)
def test_class_logits_pass_where_they_are_said_to(family):
    model = h.build(h.FAMILIES[family]()).eval()
    kind, sigmoid = HEADS.get(family, ('dense', True))
    head = logit_head(model)
    assert (head_kind(model), is_sigmoid(head)) == (kind, sigmoid)
    taps = logit_taps(model)
    assert len(taps) == (3 if family == 'cascade_rcnn' else 1)
    batch = model.data_preprocessor(h.raw_batch(family))
    with torch.no_grad(), capture(model, [tap.place for tap in taps]) as features:
        model(**batch, mode='tensor')
    background = kind in ('roi', 'dense') and not sigmoid
    for tap in taps:
        logits = features[tap][0]
        assert classes_of(logits, kind, head) == h.CLASSES + background


def multi_label():
    cfg = h.classifier()
    cfg.head = dict(type='MultiLabelLinearClsHead', num_classes=h.CLASSES, in_channels=64)
    return cfg


def multi_head():
    """A segmentor whose decode heads are several."""
    model = nn.Module()
    model.decode_head = nn.ModuleList([nn.Conv2d(1, 1, 1), nn.Conv2d(1, 2, 1)])
    return model


def test_labels_that_do_not_exclude_each_other_are_sigmoid():
    assert is_sigmoid(logit_head(h.build(multi_label())))


def test_of_several_decode_heads_the_last_answers():
    model = multi_head()
    assert logit_head(model) is model.decode_head[1]


class BaseSegmentor(nn.Module):
    """By its name, a segmentor; of its heads some make their logits by a convolution."""

    def __init__(self, *convolves):
        super().__init__()
        heads = [nn.Module() for _ in convolves]
        for head, convolved in zip(heads, convolves):
            if convolved:
                head.conv_seg = nn.Identity()
        self.decode_head = nn.ModuleList(heads) if len(heads) > 1 else heads[0]


@pytest.mark.parametrize(
    ('convolves', 'at', 'levels'),
    [
        ([True], 'decode_head.conv_seg', None),
        ([True, True], 'decode_head.1.conv_seg', None),
        (
            [True, False],
            'decode_head.0.conv_seg',
            (0,),
        ),  # PointRend's points are other ones each time
        ([False], 'decode_head', (-1,)),
    ],
)
def test_a_segmentors_logits_are_the_last_map_of_scores(convolves, at, levels):
    (tap,) = logit_taps(BaseSegmentor(*convolves))
    assert (tap.at, tap.levels) == (at, levels)


def test_masks_by_queries_are_no_map_of_scores():
    class QueryHead(nn.Module):
        def forward(self, x, batch_data_samples):
            raise AssertionError

    model = BaseSegmentor(False)
    model.decode_head = QueryHead()
    with pytest.raises(
        InputError, match=r'QueryHead gives masks by queries and no map of class logits.*pkd'
    ):
        logit_taps(model)
    model.backbone = nn.Identity()
    assert CWD().default_taps(model) == [Tap('backbone')]


def test_a_model_without_such_a_head_is_named():
    with pytest.raises(InputError, match=r'Sequential has no head with class logits.*pkd'):
        logit_head(nn.Sequential(nn.ReLU()))


def test_heatmaps_are_independent_and_one_head_activates_them():
    options = dict(num_classes=h.CLASSES, in_channels=8)
    center, corner = CenterNetHead(feat_channels=8, **options), CornerHead(**options)
    assert is_sigmoid(center)
    assert is_sigmoid(corner)
    model = h.build(h.retinanet())
    for head, activated in ((center, True), (corner, False)):
        model.bbox_head = head
        assert LogitDivergence.of(model, model, None).activated == activated


def test_boxes_that_come_with_queries_are_not_another_networks():
    class Sparse:
        def _bbox_forward(self, stage, x, rois, object_feats, batch_img_metas):
            pass

    with pytest.raises(
        InputError, match=r'Sparse scores boxes by .*\(batch_img_metas, object_feats\).*pkd'
    ):
        refuse_queries(Sparse())
