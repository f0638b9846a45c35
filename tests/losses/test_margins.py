"""Margins by drawing, the partial distance place by place."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from mmkd.losses.margins import margins, partial_distance

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(('mean', 'spread'), [(0.0, 1.0), (0.5, 2.0), (-1.0, 0.3), (1.0, -1.0)])
def test_a_margin_is_the_mean_of_what_is_below_zero(mean, spread):
    drawn = RNG.normal(mean, abs(spread), 2_000_000)
    got = margins(torch.tensor([mean]), torch.tensor([spread])).item()
    assert got == pytest.approx(drawn[drawn < 0].mean(), abs=5e-3)


def test_where_nothing_is_below_zero_it_is_three_deviations():
    assert margins(torch.tensor([8.0]), torch.tensor([2.0])).item() == -6.0
    assert margins(torch.tensor([0.0]), torch.tensor([0.0])).isfinite().all()


def test_places_count_where_the_teacher_is_active_or_the_student_too_high():
    s, t = RNG.normal(size=(2, 2, 3, 4, 4))
    m = -RNG.random(3)
    total = 0.0
    for (b, c, y, x), value in np.ndenumerate(s):
        target = max(t[b, c, y, x], m[c])
        if target > 0 or value > target:
            total += (value - target) ** 2
    got = partial_distance(torch.tensor(s), torch.tensor(t), torch.tensor(m)).item()
    assert got == pytest.approx(total / 2, rel=1e-9)


def test_the_gradient_by_finite_differences():
    s, t = torch.tensor(RNG.normal(size=(2, 1, 3, 3, 3)))
    student = s.clone().requires_grad_()
    margin = torch.tensor([-0.1, -0.2, -0.3], dtype=torch.float64)
    assert gradcheck(lambda s: partial_distance(s, t, margin), student)
