"""Attention of maps of several sizes: what is published, and what counts levels alike."""

import numpy as np
import pytest
import torch

from mmkd.losses.attention import attention_distance, attention_map, attention_turn

SIZES = [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
"""Maps of a pyramid."""


def pair(size, channels=7, seed=0):
    rng = np.random.default_rng(seed)
    return (torch.tensor(rng.gamma(1.0, size=(3, channels, *size))) for _ in range(2))


def cosine(student, teacher):
    ours, theirs = ((side.numpy() ** 2).mean(1).reshape(3, -1) for side in (student, teacher))
    return (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)


@pytest.mark.parametrize('size', SIZES)
def test_the_turn_is_two_less_twice_the_cosine(size):
    student, teacher = pair(size)
    expected = (2 - 2 * cosine(student, teacher)).mean()
    assert attention_turn(student, teacher).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('size', SIZES)
def test_the_distance_is_the_turn_over_the_positions(size):
    student, teacher = pair(size)
    turn, distance = attention_turn(student, teacher), attention_distance(student, teacher)
    assert distance.item() == pytest.approx(turn.item() / (size[0] * size[1]), rel=1e-12)


def test_the_largest_turn_is_two_whatever_the_size():
    for height, width in SIZES:
        left = torch.zeros(1, 4, height, width)
        left[..., 0] = 1.0
        assert attention_turn(left, left.flip(3)).item() == pytest.approx(2.0)


def test_levels_count_alike_in_the_turn_and_the_smallest_rules_the_distance():
    turns, distances = (
        np.array([loss(*pair(size)).item() for size in SIZES])
        for loss in (attention_turn, attention_distance)
    )
    assert (turns / turns.sum()).max() < 0.3
    assert distances[-1] / distances.sum() > 0.5
    assert distances[0] / distances.sum() < 0.006


def test_scale_and_the_number_of_channels_do_not_matter():
    student, teacher = pair((5, 4))
    many = teacher.repeat(1, 3, 1, 1)
    assert torch.allclose(attention_map(many), attention_map(teacher))
    turn = attention_turn(student, teacher)
    assert torch.allclose(attention_turn(9 * student, many), turn)


def test_a_dead_map_has_no_attention_and_a_finite_gradient():
    dead = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = attention_turn(dead, torch.ones(2, 3, 4, 4))
    assert loss.item() == pytest.approx(1.0)
    (gradient,) = torch.autograd.grad(loss, dead)
    assert gradient.isfinite().all()
