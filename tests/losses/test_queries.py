"""What queries find against formulas written independently in NumPy, and the gradient against differences."""

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import bbox_overlaps
from scipy.special import expit, rel_entr, softmax
from torch.autograd import gradcheck

from mmkd.losses import query_distances
from mmkd.losses.queries import certainty, corners

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 3, 4, 5))
BOXES = RNG.uniform(0.2, 0.6, size=(2, 3, 4, 4))


@pytest.mark.parametrize('sigmoid', [True, False])
def test_query_distances(sigmoid):
    (s, t), (b, u) = LOGITS, BOXES
    if sigmoid:
        classes = (rel_entr(expit(t), expit(s)) + rel_entr(expit(-t), expit(-s))).sum(-1)
    else:
        classes = rel_entr(softmax(t, -1), softmax(s, -1)).sum(-1)
    rows = []
    for side in (b, u):
        x, y, w, height = side.reshape(-1, 4).T
        rows.append(
            torch.tensor(np.stack([x - w / 2, y - height / 2, x + w / 2, y + height / 2], 1))
        )
    giou = bbox_overlaps(*rows, mode='giou', is_aligned=True).numpy().reshape(3, 4)
    expected = np.stack([classes, abs(b - u).sum(-1), 1 - giou])
    sides = [(torch.tensor(logits), torch.tensor(boxes)) for logits, boxes in zip(LOGITS, BOXES)]
    np.testing.assert_allclose(query_distances(*sides, sigmoid).numpy(), expected, atol=1e-6)
    assert torch.equal(corners(sides[0][1]).flatten(0, 1), rows[0])


def test_certainty_leaves_the_background_out():
    logits = torch.tensor(LOGITS[0])
    assert np.allclose(certainty(logits, True), expit(LOGITS[0]).max(-1))
    assert np.allclose(certainty(logits, False), softmax(LOGITS[0], -1)[..., :-1].max(-1))


@pytest.mark.parametrize('sigmoid', [True, False])
def test_the_gradient_by_finite_differences(sigmoid):
    s, b, t, u = (torch.tensor(x) for x in (LOGITS[0], BOXES[0], LOGITS[1], BOXES[1]))
    own = (s.requires_grad_(), b.requires_grad_())
    assert gradcheck(
        lambda s, b: query_distances((s, b), (t, u), sigmoid), own, eps=1e-6, atol=1e-6
    )
