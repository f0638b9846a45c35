"""Decoupled divergences against probabilities in NumPy, and against the divergence that they come from."""

import numpy as np
import torch
from scipy.special import rel_entr, softmax
from torch.autograd import gradcheck

from mmkd.losses import decoupled_kl, softmax_kl

S, T = np.random.default_rng(0).normal(0, 3, size=(2, 6, 5))
LABELS = [0, 4, 2, 2, 1, 3]


def test_both_parts():
    for temperature in (1.0, 4.0):
        found = decoupled_kl(torch.tensor(S), torch.tensor(T), torch.tensor(LABELS), temperature)
        for row, label in enumerate(LABELS):
            s, t = (softmax(side[row] / temperature) for side in (S, T))
            binary = [np.array([p[label], 1 - p[label]]) for p in (t, s)]
            others = [np.delete(p, label) / (1 - p[label]) for p in (t, s)]
            for part, pair in zip(found, (binary, others)):
                expected = temperature**2 * rel_entr(*pair).sum()
                np.testing.assert_allclose(part[row].item(), expected, atol=1e-10)


def test_together_they_are_the_whole_divergence():
    s, t, labels = torch.tensor(S), torch.tensor(T), torch.tensor(LABELS)
    target, others = decoupled_kl(s, t, labels, 2.0)
    rest = 1 - (t / 2).softmax(1)[torch.arange(6), labels]
    torch.testing.assert_close(target + rest * others, softmax_kl(s, t, 2.0))


def test_the_gradient_by_finite_differences():
    student, labels = torch.tensor(S, requires_grad=True), torch.tensor(LABELS)
    assert gradcheck(lambda s: decoupled_kl(s, torch.tensor(T), labels, 4.0), student)


def test_a_teacher_that_is_certain_gives_finite_gradients():
    student = torch.zeros(1, 3, requires_grad=True)
    teacher = torch.tensor([[200.0, 0.0, -200.0]])
    sum(decoupled_kl(student, teacher, torch.tensor([0]), 1.0)).sum().backward()
    assert student.grad.isfinite().all()
