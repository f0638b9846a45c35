"""GIoU against areas that are counted on a grid."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from mmkd.losses.boxes import generalized_iou


def counted(first, second, size=24):
    """GIoU of two boxes with whole corners by counting cells."""
    y, x = np.mgrid[:size, :size] + 0.5

    def inside(box):
        return (x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])

    a, b = inside(first), inside(second)
    corners = np.minimum(first, second)[:2], np.maximum(first, second)[2:]
    hull = inside(np.concatenate(corners))
    union = (a | b).sum()
    return (a & b).sum() / union - (hull.sum() - union) / hull.sum()


def test_it_equals_counted_cells():
    rng = np.random.default_rng(0)
    low = rng.integers(0, 12, size=(2, 40, 2))
    boxes = np.concatenate([low, low + rng.integers(1, 12, size=(2, 40, 2))], -1)
    expected = [counted(a, b) for a, b in zip(*boxes)]
    assert min(expected) < -0.3 < 0.5 < max(expected)
    got = generalized_iou(*torch.tensor(boxes).float())
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


def test_it_forgets_scale_about_a_common_point():
    rng = torch.Generator().manual_seed(0)
    ours, theirs = (torch.rand(2, 9, 4, generator=rng) + 0.1).double()
    sign = torch.tensor([-1.0, -1.0, 1.0, 1.0]).double()
    once, scaled = (
        generalized_iou(5 + factor * sign * ours, 5 + factor * sign * theirs) for factor in (1, 32)
    )
    assert torch.allclose(once, scaled)


def test_boxes_without_area_have_a_finite_gradient():
    flat = torch.tensor([[2.0, 2.0, 2.0, 2.0]], requires_grad=True)
    value = generalized_iou(flat, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    assert value.item() == pytest.approx(-0.75)
    (gradient,) = torch.autograd.grad(value.sum(), flat)
    assert gradient.isfinite().all()


def test_its_gradient_by_finite_differences():
    ours = torch.tensor([[0.0, 1.0, 4.0, 5.5]], dtype=torch.float64, requires_grad=True)
    theirs = torch.tensor([[1.0, 0.0, 6.0, 4.0]], dtype=torch.float64)
    assert gradcheck(lambda box: generalized_iou(box, theirs), (ours,))
