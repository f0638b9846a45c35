"""DIST: correlations of real classifiers' probabilities by SciPy."""

import helpers as h
import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import pearsonr

from mmkd.methods import DIST


def method(student, teacher, **options):
    found = DIST(**options)
    found.logits = lambda step: (student, teacher)
    return found(None)


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_both_terms(temperature):
    s, t = torch.randn(2, 6, 5, dtype=torch.float64)
    losses = method(s, t, temperature=temperature, beta=2.0, gamma=3.0)
    p, q = (softmax(side.numpy() / temperature, 1) for side in (s, t))
    inter = np.mean([1 - pearsonr(a, b)[0] for a, b in zip(p, q)])
    intra = np.mean([1 - pearsonr(a, b)[0] for a, b in zip(p.T, q.T)])
    factor = temperature**2
    assert losses['loss_inter'].item() == pytest.approx(2 * factor * inter, rel=1e-6)
    assert losses['loss_intra'].item() == pytest.approx(3 * factor * intra, rel=1e-6)


def test_classes_that_hardly_vary_count():
    s, t = torch.randn(2, 8, 1000)
    losses = method(s, t)
    p, q = (softmax(side.double().numpy(), 1) for side in (s, t))
    intra = np.mean([1 - pearsonr(a, b)[0] for a, b in zip(p.T, q.T)])
    assert losses['loss_intra'].item() == pytest.approx(intra, rel=1e-4)


def test_terms_without_weight_are_left_out():
    for options, left in ((dict(beta=0.0), 'loss_intra'), (dict(gamma=0.0), 'loss_inter')):
        model = h.distiller(h.classifier(), h.classifier(), dist=dict(type='mmkd.DIST', **options))
        assert [k for k in h.losses_of(model, 'classifier') if '/' in k] == [f'dist/{left}']
