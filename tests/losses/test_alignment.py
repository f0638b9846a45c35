"""Aligned maps have the teacher's mean and spread and the student's pattern."""

import numpy as np
import torch
from torch.autograd import gradcheck

from mmkd.losses.alignment import aligned

S, T = np.random.default_rng(0).normal(2, 3, size=(2, 3, 5, 4, 6))


def test_each_channel_is_standardised_and_moved():
    for scale in (1.0, 100.0):
        student = S * scale
        (found,), count = aligned([(torch.tensor(student), torch.tensor(T))], torch.tensor([3.0]))
        assert count.tolist() == [3.0]
        for c in range(5):
            s, t = student[:, c], T[:, c]
            expected = (s - s.mean()) / s.std() * t.std() + t.mean()
            np.testing.assert_allclose(found[:, c].numpy(), expected, rtol=1e-8, atol=1e-8)


def test_a_constant_channel_becomes_the_teachers_mean():
    teacher = torch.tensor(T[:2, :1, :3, :3]).float()
    (found,), _ = aligned([(torch.ones(2, 1, 3, 3), teacher)], torch.ones(1))
    torch.testing.assert_close(found, torch.full_like(found, T[:2, :1, :3, :3].mean()))


def test_the_gradient_by_finite_differences():
    student, teacher = torch.tensor(S[:2, :2], requires_grad=True), torch.tensor(T[:2, :2])
    assert gradcheck(
        lambda s: aligned([(s, teacher)], torch.ones(1))[0][0], student, eps=1e-6, atol=1e-6
    )
