"""The quality focal form against mmdet's loss for hard targets, NumPy for soft ones, and differences."""

import numpy as np
import pytest
import torch
from mmdet.models.losses import QualityFocalLoss
from scipy.special import expit
from torch.autograd import gradcheck

from mmkd.losses import quality_focal

S, T = np.random.default_rng(0).normal(0, 3, size=(2, 7, 5))


def test_it_is_cross_entropy_times_the_gap():
    p, q = expit(T), expit(S)
    expected = (-(p * np.log(q) + (1 - p) * np.log(1 - q)) * abs(p - q)).sum(1)
    got = quality_focal(torch.tensor(S), torch.tensor(T)).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_a_teacher_that_is_sure_of_one_class_is_mmdets_loss_of_beta_one():
    labels = torch.arange(7) % 5
    quality = torch.linspace(0.1, 0.9, 7)
    teacher = torch.full((7, 5), -60.0)
    teacher[torch.arange(7), labels] = quality.logit()
    student = torch.tensor(S, dtype=torch.float32)
    theirs = QualityFocalLoss(beta=1.0, reduction='sum')(student, (labels, quality))
    assert quality_focal(student, teacher).sum().item() == pytest.approx(theirs.item(), rel=1e-5)


def test_the_gradient_by_finite_differences():
    student, teacher = torch.tensor(S, requires_grad=True), torch.tensor(T)
    assert gradcheck(lambda s: quality_focal(s, teacher), student, eps=1e-6, atol=1e-7)
