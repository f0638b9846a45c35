"""DKD on a real classifier: the label's class and the others, soft labels included."""

import helpers as h
import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from mmkd import Tap
from mmkd.family.taps import capture

DKD = dict(type='mmkd.DKD')


def pair(**options):
    model = h.distiller(h.classifier(), h.classifier(16), dkd=dict(DKD, **options)).eval()
    return model, model.data_preprocessor(h.raw_batch('classifier'), True)


def logits(model, batch):
    with torch.no_grad(), capture(model, [('head', 'output')]) as features:
        model(batch['inputs'], batch['data_samples'], mode='tensor')
    return features[Tap('head')][0].double().numpy()


@pytest.mark.parametrize('soft', [False, True])
def test_both_terms(soft):
    model, batch = pair(alpha=0.5, beta=2.0, temperature=3.0)
    labels = [int(s.gt_label) for s in batch['data_samples']]
    if soft:
        for sample, label in zip(batch['data_samples'], labels):
            mixed = torch.full((h.CLASSES,), 0.1)
            mixed[label] = 0.7
            sample.set_gt_score(mixed)
    losses = model(**batch, mode='loss')
    sides = [logits(m, batch) for m in (model.distillation.teachers['teacher'].model, model)]
    target = others = 0.0
    for row, label in enumerate(labels):
        t, s = (softmax(side[row] / 3) for side in sides)
        target += 9 * rel_entr([t[label], 1 - t[label]], [s[label], 1 - s[label]]).sum()
        rest = [np.delete(p, label) / (1 - p[label]) for p in (t, s)]
        others += 9 * rel_entr(*rest).sum()
    count = len(labels)
    assert losses['dkd/loss_target'].item() == pytest.approx(0.5 * target / count, rel=1e-3)
    assert losses['dkd/loss_others'].item() == pytest.approx(2 * others / count, rel=1e-3)


def test_a_term_without_weight_is_left_out():
    model, batch = pair(alpha=0.0)
    losses = model(**batch, mode='loss')
    assert [k for k in losses if '/loss' in k] == ['dkd/loss_others']
