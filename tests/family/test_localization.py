"""What compares the boxes of dense heads, against mmdet's own reading of the same heads."""

import helpers as h
import pytest
import torch
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import ConfigDict
from scipy.special import rel_entr, softmax

from mmkd.family.building import build_model, load_config, model_config
from mmkd.family.localization import BoxDivergence
from mmkd.family.logits import LogitDivergence

DECODED = ('retinanet', 'fcos', 'rtmdet', 'softmax')


def answers(model, seed):
    """What a dense head gives for random maps of two images."""
    torch.manual_seed(seed)
    channels = model.bbox_head.in_channels
    count = len(model.bbox_head.prior_generator.strides)
    maps = [torch.randn(2, channels, 8 >> i or 1, 12 >> i or 1) for i in range(count)]
    with torch.no_grad():
        given = model.bbox_head.eval()(tuple(maps))
    if hasattr(model.bbox_head.prior_generator, 'base_anchors'):
        return given
    return given[0], [level.abs() for level in given[1]], *given[2:]  # distances to sides


@pytest.mark.parametrize('family', ['retinanet', 'rtmdet'])
def test_boxes_are_those_that_the_head_predicts(family):
    model = h.build(h.FAMILIES[family]())
    given = answers(model, 0)
    ours = BoxDivergence.of(model)._boxes(list(given[1]))
    cfg = ConfigDict(score_thr=-1.0, nms_pre=10**6)  # whatever has a score
    metas = [dict(img_shape=(10**6, 10**6))] * 2
    found = model.bbox_head.predict_by_feat(*given, batch_img_metas=metas, cfg=cfg, with_nms=False)
    theirs = torch.cat([result.bboxes for result in found])
    cut = ours.clamp_min(0)  # at the image's edge
    assert len(theirs) == h.CLASSES * len(ours)
    apart = torch.cdist(theirs, cut, compute_mode='donot_use_mm_for_euclid_dist')
    assert apart.amin(1).max() < 1e-3
    assert apart.amin(0).max() < 1e-3


@pytest.mark.parametrize('family', DECODED)
def test_without_bins_it_is_one_less_the_giou_where_the_teacher_is_sure(family):
    model = h.build(h.FAMILIES[family]())
    divergence, logits = BoxDivergence.of(model), LogitDivergence.of(model, model, None)
    assert divergence.bins == 0
    (s, t) = (answers(model, seed) for seed in (0, 1))
    sure = logits.confidence(list(t[0]))
    total, weight = 0.0, 0.0
    places = model.bbox_head.prior_generator.grid_priors(
        [level.shape[-2:] for level in t[0]], device='cpu'
    )
    classes = model.bbox_head.cls_out_channels
    for at, s_box, t_box, scores in zip(places, s[1], t[1], t[0]):
        for image in range(2):
            flat = [level[image].permute(1, 2, 0).reshape(-1, 4) for level in (s_box, t_box)]
            boxes = [model.bbox_head.bbox_coder.decode(at, values) for values in flat]
            giou = bbox_overlaps(*boxes, mode='giou', is_aligned=True)
            rows = scores[image].permute(1, 2, 0).reshape(-1, classes)
            chance = rows.softmax(1)[:, :-1] if family == 'softmax' else rows.sigmoid()
            total += (chance.amax(1) * (1 - giou)).sum().item()
            weight += chance.amax(1).sum().item()
    got = divergence(list(s[1]), list(t[1]), sure).item()
    assert 0 < got < 2
    assert got == pytest.approx(total / max(weight, 1), rel=1e-4)


@pytest.mark.parametrize('temperature', [1.0, 10.0])
def test_bins_are_compared_side_by_side(temperature):
    model = h.build(h.gfl())
    divergence = BoxDivergence.of(model, temperature)
    assert divergence.bins == 17
    (s, t) = (answers(model, seed) for seed in (0, 1))
    sure = LogitDivergence.of(model, model, None).confidence(list(t[0]))
    total, weight = 0.0, 0.0
    for s_box, t_box, scores in zip(s[1], t[1], t[0]):
        chance = scores.sigmoid().amax(1).numpy()
        for side in range(4):
            bins = slice(17 * side, 17 * (side + 1))
            p, q = (softmax(v[:, bins].double().numpy() / temperature, 1) for v in (t_box, s_box))
            total += temperature**2 * (chance * rel_entr(p, q).sum(1)).sum() / 4
        weight += chance.sum()
    got = divergence(list(s[1]), list(t[1]), sure).item()
    assert got == pytest.approx(total / max(weight, 1), rel=1e-4)


def test_the_weights_choose_the_anchors():
    model = h.build(h.gfl())
    divergence = BoxDivergence.of(model)
    (s, t) = (answers(model, seed) for seed in (0, 1))
    only = torch.zeros(sum(2 * level[0, 0].numel() for level in t[0]))
    only[5] = 3.0  # the sixth cell of the first image's first level
    p, q = (
        side[1][0][0, :, 0, 5].view(4, 17).double().softmax(1).numpy() for side in (t, s)
    )  # fmt: skip
    expected = rel_entr(p, q).sum(1).mean()
    assert divergence(list(s[1]), list(t[1]), only).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('family', ['faster_rcnn', 'dino', 'segmentor', 'classifier'])
def test_other_heads_have_none(family):
    assert BoxDivergence.of(h.build(h.FAMILIES[family]())) is None


@pytest.mark.parametrize(
    ('source', 'kind'),
    [
        ('gfl/gfl_r50_fpn_1x_coco', 'bins'),
        ('atss/atss_r50_fpn_1x_coco', 'decoded'),
        ('ssd/ssd300_coco', 'decoded'),
        ('vfnet/vfnet_r50_fpn_1x_coco', 'decoded'),
        ('tood/tood_r50_fpn_1x_coco', 'decoded'),
        ('foveabox/fovea_r50_fpn_4xb4-1x_coco', None),
        ('guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco', None),
        ('reppoints/reppoints-moment_r50_fpn_1x_coco', None),
        ('paa/paa_r50_fpn_1x_coco', None),
        ('yolox/yolox_tiny_8xb8-300e_coco', None),
        ('centernet/centernet_r18_8xb16-crop512-140e_coco', None),
    ],
)
def test_heads_of_the_toolbox(source, kind):
    found = BoxDivergence.of(build_model(model_config(load_config(f'mmdet::{source}.py'))))
    assert (found and ('bins' if found.bins else 'decoded')) == kind
