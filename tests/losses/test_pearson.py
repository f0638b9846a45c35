"""Pearson's distance where a channel does not vary."""

import torch

from mmkd.losses.pearson import pearson_distance


def test_a_constant_channel_has_no_gradient_and_no_nan():
    student = torch.rand(2, 3, 2, 2)
    student[:, 1] = 0.5
    student.requires_grad_()
    loss = pearson_distance(student, torch.rand(2, 3, 2, 2))
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.isfinite().all()
    assert gradient[:, 0].abs().max() > 0
