"""LD on a real GFL: its terms beside mmdet's own LD head, and by loops."""

import copy

import helpers as h
import numpy as np
import pytest
import torch
from mmdet.models.losses import KnowledgeDistillationKLDivLoss
from scipy.special import rel_entr, softmax

from mmkd import InputError, Tap
from mmkd.family.building import build_model
from mmkd.family.taps import capture
from mmkd.losses.region import valuable_region

LD = dict(type='mmkd.LD')


def pair(**options):
    """A Distiller in eval mode, its batch and losses, and what both heads and the class loss saw."""
    model = h.distiller(h.gfl(), h.gfl(), ld=dict(LD, **options)).eval()
    batch = model.data_preprocessor(h.raw_batch('gfl'), True)
    losses = model(**batch, mode='loss')
    guide = model.distillation.teachers['teacher'].model
    model.distillation.forward = lambda student, task, *args: task()
    found = []
    for network, mode in ((model, 'loss'), (guide, 'tensor')):
        places = [('bbox_head', 'output'), ('bbox_head.loss_cls', 'input')][
            : 2 if mode == 'loss' else 1
        ]
        with torch.no_grad(), capture(network, places) as features:
            network(**batch, mode=mode)
        found.append(features)
    ours, theirs = (features.calls(Tap('bbox_head'))[0] for features in found)
    labels = [call[1][0] for call in found[0].calls(Tap('bbox_head.loss_cls', source='input'))]
    return model, batch, losses, ours, theirs, torch.cat(labels)


def rows(levels, width):
    return torch.cat([level.permute(0, 2, 3, 1).reshape(-1, width) for level in levels])


def test_the_bins_of_positives_are_those_of_mmdets_head():
    model, batch, losses, _, theirs, labels = pair()
    config = copy.deepcopy(h.gfl())
    config.bbox_head.update(type='LDHead', loss_ld=dict(
        type='KnowledgeDistillationKLDivLoss', loss_weight=0.25, T=10
    ))  # fmt: skip
    twin = build_model(config)
    twin.load_state_dict({k: v for k, v in model.state_dict().items() if 'distillation.' not in k})
    twin.eval()
    samples = batch['data_samples']
    answers = twin.bbox_head(twin.extract_feat(batch['inputs']))
    found = twin.bbox_head.loss_by_feat(
        *answers,
        [s.gt_instances for s in samples],
        [s.metainfo for s in samples],
        soft_targets=theirs[1],
    )
    assert (labels < h.CLASSES).sum() > 3
    expected = sum(found['loss_ld']).item()
    assert losses['ld/loss_bins'].item() == pytest.approx(expected, rel=1e-4)


def test_classes_of_positives_are_averaged_over_them():
    _, _, losses, ours, theirs, labels = pair()
    s, t = (rows(side[0], h.CLASSES)[labels < h.CLASSES] for side in (ours, theirs))
    expected = KnowledgeDistillationKLDivLoss(loss_weight=10.0, T=2)(s, t).item()
    assert losses['ld/loss_classes'].item() == pytest.approx(expected, rel=1e-4)


def test_the_region_is_weighed_by_a_sixteenth():
    model, batch, losses, ours, theirs, labels = pair()
    sizes = [level.shape[-2:] for level in ours[0]]
    anchors = model.bbox_head.prior_generator.grid_priors(sizes, device='cpu')
    masks = [valuable_region(anchors, s.gt_instances.bboxes) for s in batch['data_samples']]
    total, row = 0.0, 0
    for level in range(len(sizes)):
        scores, bins = ours[0][level].sigmoid().amax(1), (theirs[1][level], ours[1][level])
        for image in range(2):
            for cell in range(sizes[level].numel()):
                y, x = divmod(cell, sizes[level][1])
                if masks[image][level][cell] and labels[row] == h.CLASSES:
                    p, q = (
                        softmax(v[image, :, y, x].view(4, 17).double().numpy() / 10, -1)
                        for v in bins
                    )
                    mean = rel_entr(p, q).sum() / 17 * 100
                    total += scores[image, y, x].item() * mean
                row += 1
    assert total > 0
    assert losses['ld/loss_region'].item() == pytest.approx(0.25 * total / 16, rel=1e-4)


def test_a_larger_batch_does_not_make_the_sums_larger():
    found = []
    for count in (1, 3):
        model = h.distiller(h.gfl(), h.gfl(), ld=LD).eval()
        batch = h.raw_batch('gfl', sizes=((64, 64),))
        batch = {name: values * count for name, values in batch.items()}
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
        found.append([losses[f'ld/loss_{term}'].item() for term in ('bins', 'region', 'classes')])
    np.testing.assert_allclose(*found, rtol=1e-4)


def test_every_term_trains_the_student():
    model = h.distiller(h.gfl(), h.gfl(), ld=LD)
    losses = h.losses_of(model, 'gfl')
    for term in ('bins', 'region', 'classes'):
        model.zero_grad()
        losses[f'ld/loss_{term}'].backward(retain_graph=True)
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(grad.isfinite().all() for grad in grads)
        assert sum(grad.abs().sum() for grad in grads) > 0


@pytest.mark.parametrize('left', ['bins', 'region', 'classes'])
def test_terms_without_weight_are_left_out(left):
    options = {name: 0.0 for name in ('bins', 'region', 'classes') if name != left}
    model = h.distiller(h.gfl(), h.gfl(), ld=dict(LD, **options))
    assert [k for k in h.losses_of(model, 'gfl') if '/' in k] == [f'ld/loss_{left}']


@pytest.mark.parametrize(
    ('student', 'teacher', 'words'),
    [
        (h.retinanet, h.gfl, 'LD is for boxes told by bins .*, RetinaHead of the student has none'),
        (h.gfl, h.fcos, 'LD is for boxes told by bins .*, FCOSHead of the teacher has none'),
        (h.faster_rcnn, h.gfl, 'LD is for a dense head'),
        (h.classifier, h.classifier, 'LD is for a dense head'),
    ],
)
def test_other_heads_are_answered(student, teacher, words):
    with pytest.raises(InputError, match=words):
        h.distiller(student(), teacher(), ld=LD)
