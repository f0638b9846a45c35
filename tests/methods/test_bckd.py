"""BCKD on real dense heads: both terms against plain loops, and heads that it is not for."""

import helpers as h
import numpy as np
import pytest
import torch
from mmdet.structures.bbox import bbox_overlaps
from scipy.special import expit, log_expit

from mmkd import InputError, Tap
from mmkd.family.taps import capture

BCKD = dict(type='mmkd.BCKD')


def seen(model, batch, places, mode='loss'):
    """What passes at places of a model while nothing is distilled."""
    with torch.no_grad(), capture(model, [(at, side) for at, side in places]) as features:
        model(**batch, mode=mode)
    return [features.calls(Tap(at, source=side)) for at, side in places]


def pair(family, **options):
    """A Distiller without statistics of batches, its losses, and what both heads gave."""
    student = h.FAMILIES[family]()
    model = h.distiller(student, h.FAMILIES[family](), bckd=dict(BCKD, **options)).eval()
    batch = model.data_preprocessor(h.raw_batch(family), True)
    losses = model(**batch, mode='loss')
    teacher = model.distillation.teachers['teacher'].model
    model.distillation.forward = lambda student, task, *args: task()
    places = [('bbox_head', 'output'), ('bbox_head.loss_cls', 'input')]
    (ours,), told = seen(model, batch, places)
    ((theirs,),) = seen(teacher, batch, places[:1], 'tensor')
    return model, losses, ours, theirs, told


def flat(levels, width):
    """Maps as rows, cell by cell."""
    rows = []
    for level in levels:
        for image in level:
            cells = image.reshape(-1, width, *image.shape[1:])
            rows += [
                cells[a, :, y, x].double().numpy()
                for y in range(image.shape[1]) for x in range(image.shape[2])
                for a in range(len(cells))
            ]  # fmt: skip
    return np.array(rows)


def positives(told):
    """How many labels of the class loss are of a class."""
    targets = [call[1][0] if isinstance(call[1], tuple) else call[1] for call in told]
    return sum(int(((t >= 0) & (t < h.CLASSES)).sum()) for t in targets)


@pytest.mark.parametrize('family', ['retinanet', 'gfl', 'fcos', 'rtmdet'])
def test_classes_are_asked_one_by_one(family):
    _, losses, ours, theirs, told = pair(family)
    s, t = (flat(side[0], h.CLASSES) for side in (ours, theirs))
    p, q = expit(t), expit(s)
    surprise = -p * log_expit(s) - (1 - p) * log_expit(-s)
    count = positives(told)
    assert count > 0
    expected = (surprise * abs(p - q)).sum() / count
    assert losses['bckd/loss_classes'].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('family', ['retinanet', 'gfl', 'fcos'])
def test_boxes_follow_by_overlap_where_the_teacher_is_sure(family):
    model, losses, ours, theirs, _ = pair(family, boxes=4.0)
    sure = expit(flat(theirs[0], h.CLASSES)).max(1)
    head = model.bbox_head
    sizes = [level.shape[-2:] for level in ours[0]]
    priors = head.prior_generator.grid_priors(sizes, device='cpu')
    boxes = []
    for side in (ours, theirs):
        found = []
        for level, at, stride in zip(side[1], priors, head.prior_generator.strides):
            for image in level:
                if family == 'gfl':
                    rows = head.integral(image.permute(1, 2, 0).reshape(-1, 68)) * stride[0]
                    places = (at[:, :2] + at[:, 2:]) / 2
                else:
                    rows, places = image.permute(1, 2, 0).reshape(-1, 4), at
                found.append(head.bbox_coder.decode(places, rows))
        boxes.append(torch.cat(found))
    assert len(boxes[0]) == len(sure)
    apart = 1 - bbox_overlaps(*boxes, mode='giou', is_aligned=True).numpy()
    expected = 4 * (sure * apart).sum() / max(sure.sum(), 1)
    assert losses['bckd/loss_boxes'].item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize('family', ['retinanet', 'gfl', 'fcos', 'rtmdet'])
def test_both_terms_train_the_student(family):
    model = h.distiller(h.FAMILIES[family](), h.FAMILIES[family](), bckd=BCKD)
    losses = h.losses_of(model, family)
    for term in ('loss_classes', 'loss_boxes'):
        model.zero_grad()
        losses[f'bckd/{term}'].backward(retain_graph=True)
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(grad.isfinite().all() for grad in grads)
        assert sum(grad.abs().sum() for grad in grads) > 0


def test_a_term_without_weight_is_left_out():
    model = h.distiller(h.retinanet(), h.retinanet(), bckd=dict(BCKD, classes=0.0))
    assert [name for name in h.losses_of(model, 'retinanet') if '/' in name] == ['bckd/loss_boxes']


@pytest.mark.parametrize(
    ('student', 'teacher', 'words'),
    [
        (h.classifier, h.classifier, 'BCKD is for a dense head, the student .* the logits of a classifier'),
        (h.faster_rcnn, h.retinanet, 'BCKD is for a dense head, the student .* a RoI head'),
        (h.retinanet, h.dino, 'BCKD is for a dense head, the teacher .* a head of queries'),
        (h.ssd_like, h.ssd_like, 'BCKD is for sigmoid classes'),
        (h.retinanet, h.gfl, 'BCKD: .*the same classes, anchors and strides'),
    ],
)  # fmt: skip
def test_other_heads_are_answered(student, teacher, words):
    with pytest.raises(InputError, match=words):
        h.distiller(student(), teacher(), bckd=BCKD)
