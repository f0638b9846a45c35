"""CrossKD on real dense heads: a student's map in the teacher's head, by a loop over its own modules."""

import copy

import helpers as h
import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from scipy.special import rel_entr, softmax

from mmkd import InputError, Tap
from mmkd.family.building import load_config, model_config
from mmkd.family.taps import capture

CROSS = dict(type='mmkd.CrossKD')
CONVS = 3


def deep(family, **changes):
    """A family's head with towers of several convolutions."""
    cfg = h.FAMILIES[family]()
    cfg.bbox_head.update({'stacked_convs': CONVS, **changes})
    return cfg


def tood():
    cfg = h.gfl()
    cfg.update(type='TOOD')
    donor = model_config(load_config('mmdet::tood/tood_r50_fpn_1x_coco.py'))
    cfg.bbox_head = donor.bbox_head
    cfg.bbox_head.update(
        num_classes=h.CLASSES, in_channels=16, feat_channels=16, stacked_convs=2, num_dcn=0,
        norm_cfg=dict(type='GN', num_groups=4), anchor_type='anchor_free',
    )  # fmt: skip
    cfg.train_cfg, cfg.test_cfg = donor.train_cfg, donor.test_cfg
    return cfg


@pytest.fixture
def epoch():
    hub = MessageHub.get_current_instance()
    yield lambda number: hub.update_info('epoch', number)
    hub.runtime_info.pop('epoch', None)


def one_pass(model, batch, mode='loss'):
    """A head's inputs, its outputs and what its class loss is given, while nothing is distilled."""
    places = [('bbox_head', 'input'), ('bbox_head', 'output')]
    places += [('bbox_head.loss_cls', 'input')] if mode == 'loss' else []
    with torch.no_grad(), capture(model, places) as features:
        model(**batch, mode=mode)
    return [features.calls(Tap(at, source=side)) for at, side in places]


def through(ours, theirs, towers, predict, maps, own):
    """A student's maps of two levels' towers, by plain loops: in at the last convolution but one."""
    found = []
    for tower, head in zip(towers, predict):
        levels = []
        for x, y in zip(own, maps):
            for k, (conv, guide) in enumerate(zip(getattr(ours, tower), getattr(theirs, tower))):
                if k == CONVS - 2:
                    x, y = conv.norm(conv.conv(x)), guide.norm(guide.conv(y))
                    over = (0, 2, 3)
                    m, s = (side.mean(over, keepdim=True) for side in (y, x))
                    d, e = (side.std(over, keepdim=True, correction=0) for side in (y, x))
                    x = F.relu((x - s) / e * d + m)
                    break
                x, y = conv(x), guide(y)
            for guide in list(getattr(theirs, tower))[CONVS - 1 :]:
                x = guide(x)
            levels.append(getattr(theirs, head)(x))
        found.append(levels)
    return found


def rows(levels, width):
    return torch.cat([x.permute(0, 2, 3, 1).reshape(-1, width) for x in levels])


def test_the_terms_of_gfl_are_those_of_a_loop():
    model = h.distiller(deep('gfl'), deep('gfl'), cross_kd=CROSS).eval()
    batch = model.data_preprocessor(h.raw_batch('gfl'), True)
    got = model(**batch, mode='loss')
    guide = model.distillation.teachers['teacher'].model
    model.distillation.forward = lambda student, task, *args: task()
    (((own,),), _, told), (((maps,),), (theirs,)) = (
        one_pass(model, batch),
        one_pass(guide, batch, 'tensor'),
    )
    with torch.no_grad():
        classes, bins = through(
            model.bbox_head,
            guide.bbox_head,
            ('cls_convs', 'reg_convs'),
            ('gfl_cls', 'gfl_reg'),
            maps,
            own,
        )
        bins = [scale(level) for scale, level in zip(guide.bbox_head.scales, bins)]
    x, t = rows(classes, h.CLASSES), rows(theirs[0], h.CLASSES)
    count = sum(int((call[1][0] < h.CLASSES).sum()) for call in told)
    surprise = F.binary_cross_entropy_with_logits(x, t.sigmoid(), reduction='none')
    expected = (surprise * (x.sigmoid() - t.sigmoid()).abs()).sum() / count
    assert count > 0
    torch.testing.assert_close(
        got['cross_kd/loss_classes'].detach(), expected, rtol=1e-4, atol=1e-6
    )
    sure = t.sigmoid().amax(1).numpy()
    p, q = (softmax(rows(v, 68).reshape(-1, 4, 17).double().numpy(), -1) for v in (theirs[1], bins))
    divergence = (rel_entr(p, q).sum(-1) * sure[:, None]).sum()
    expected = 4 * divergence / (4 * max(sure.sum(), 1))
    assert got['cross_kd/loss_boxes'].item() == pytest.approx(expected, rel=1e-3)


def test_a_student_that_is_its_teacher_has_no_boxes_to_learn():
    config = deep('retinanet')
    model = h.distiller(config, copy.deepcopy(config), cross_kd=CROSS).eval()
    model.distillation.check_gradients = False
    state = {k: v for k, v in model.state_dict().items() if 'distillation.' not in k}
    model.distillation.teachers['teacher'].model.load_state_dict(state)
    losses = h.losses_of(model, 'retinanet')
    assert losses['cross_kd/loss_boxes'].item() == pytest.approx(0, abs=1e-5)
    assert losses['cross_kd/loss_classes'].item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize('family', ['retinanet', 'gfl', 'fcos', 'rtmdet', 'tood'])
def test_every_dense_head_with_towers_is_trained(family, epoch):
    config = tood() if family == 'tood' else h.FAMILIES[family]()
    model = h.distiller(config, copy.deepcopy(config), cross_kd=CROSS)
    if family == 'tood':
        epoch(5)
    before = {
        k: v.clone() for k, v in model.distillation.teachers['teacher'].model.state_dict().items()
    }
    losses = h.losses_of(model, 'gfl')
    head = 'inter_convs' if family == 'tood' else 'cls_convs'
    for term in ('loss_classes', 'loss_boxes'):
        model.zero_grad()
        losses[f'cross_kd/{term}'].backward(retain_graph=True)
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert grads
        assert all(grad.isfinite().all() for grad in grads)
    model.zero_grad()
    losses['cross_kd/loss_classes'].backward()
    assert (
        sum(
            p.grad.abs().sum()
            for p in getattr(model.bbox_head, head).parameters()
            if p.grad is not None
        )
        > 0
    )
    after = model.distillation.teachers['teacher'].model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_narrower_tower_gets_an_adapter():
    wide = h.gfl()
    wide.bbox_head.feat_channels = 32
    model = h.distiller(h.gfl(), wide, cross_kd=CROSS)
    names = [n for n in model.state_dict() if n.startswith('distillation.')]
    assert names == [
        f'distillation.cross_kd.adapters.{i}.project.{n}'
        for i in (0, 1)
        for n in ('weight', 'bias')
    ]
    loss, _ = model.parse_losses(h.losses_of(model, 'gfl'))
    loss.backward()
    assert model.distillation.cross_kd.adapters[1].project.weight.grad.abs().sum() > 0


def test_boxes_of_bins_weigh_more():
    weights = []
    for family in ('gfl', 'retinanet'):
        model = h.distiller(h.FAMILIES[family](), h.FAMILIES[family](), cross_kd=CROSS).eval()
        default = h.losses_of(model, family)['cross_kd/loss_boxes'].item()
        model.distillation.cross_kd.boxes = 1.0
        weights.append(default / h.losses_of(model, family)['cross_kd/loss_boxes'].item())
    assert weights == pytest.approx([4.0, 1.0])


def without_towers():
    return deep('retinanet', stacked_convs=0)


def shared_rtmdet():
    cfg = h.rtmdet()
    cfg.bbox_head.type = 'RTMDetHead'
    for name in ('exp_on_reg', 'share_conv', 'pred_kernel_size'):
        cfg.bbox_head.pop(name, None)
    return cfg


@pytest.mark.parametrize(
    ('student', 'teacher', 'words'),
    [
        (h.classifier, h.classifier, 'CrossKD is for a dense head'),
        (h.faster_rcnn, h.faster_rcnn, 'CrossKD is for a dense head, the student .* a RoI head'),
        (h.dino, h.dino, 'CrossKD is for a dense head'),
        (h.ssd_like, h.ssd_like, 'CrossKD is for sigmoid classes'),
        (h.retinanet, without_towers, 'RetinaHead of the teacher has no tower of convolutions'),
        (h.rtmdet, shared_rtmdet, 'the student has 6 towers, .* 3 levels, the teacher 2 for 6 maps'),
    ],
)  # fmt: skip
def test_other_heads_are_answered(student, teacher, words):
    with pytest.raises(InputError, match=words):
        h.distiller(student(), teacher(), cross_kd=CROSS)
