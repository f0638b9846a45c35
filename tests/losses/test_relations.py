"""Relations of images by loops over pairs and triples."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from mmkd.losses import relation_distances

RNG = np.random.default_rng(0)
S, T = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 4))


def smooth_l1(a, b):
    gap = np.abs(np.array(a) - np.array(b))
    return np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()


def relations(points):
    count = range(len(points))
    distances = np.array([[np.linalg.norm(points[i] - points[j]) for j in count] for i in count])
    angles = []
    for j in count:
        for i in count:
            for k in count:
                a, b = points[i] - points[j], points[k] - points[j]
                norm = np.linalg.norm(a) * np.linalg.norm(b)
                angles.append(a @ b / norm if norm else 0.0)
    return distances / distances[distances > 0].mean(), angles


def test_distances_and_angles():
    found = relation_distances(torch.tensor(S), torch.tensor(T))
    for got, ours, theirs in zip(found, relations(S), relations(T)):
        assert got.item() == pytest.approx(smooth_l1(ours, theirs), rel=1e-6)


def test_the_gradient_by_finite_differences():
    student = torch.tensor(S, requires_grad=True)
    assert gradcheck(lambda s: relation_distances(s, torch.tensor(T)), student, eps=1e-6, atol=1e-6)


def test_images_that_are_alike_give_finite_gradients():
    student = torch.ones(3, 4, requires_grad=True)
    sum(relation_distances(student, torch.rand(3, 2))).backward()
    assert student.grad.isfinite().all()
