"""Memories: what is remembered, of twins too, and what comes back."""

import torch
import torch.nn.functional as F

from mmkd.necks import MemoryBank


def bank(**changes):
    return MemoryBank(**{**dict(width=3, negatives=4, momentum=0.25, seed=0), **changes})


def found(rows):
    return F.normalize(torch.randn(2, rows, 3, generator=torch.Generator().manual_seed(5)), dim=-1)


def test_a_memory_moves_and_keeps_its_length():
    memories, images, new = bank(), torch.tensor([6, 1]), found(2)
    own, _ = memories.recall(images, 8)
    before = memories.rows.clone()
    memories.remember(images, new)
    for side in range(2):
        for place, image in enumerate(images):
            right = 0.25 * own[side, place] + 0.75 * new[side, place]
            torch.testing.assert_close(memories.rows[side, image], right / right.norm())
    rest = [0, 2, 3, 4, 5, 7]
    assert torch.equal(memories.rows[:, rest], before[:, rest])


def test_of_twins_the_last_counts():
    one, other, new = bank(), bank(), found(3)
    for memories in (one, other):
        memories.recall(torch.tensor([0]), 8)
    one.remember(torch.tensor([2, 5, 2]), new)
    other.remember(torch.tensor([5, 2]), new[:, 1:])
    assert torch.equal(one.rows, other.rows)


def test_others_are_drawn_from_all():
    memories = bank(negatives=500)
    memories.recall(torch.tensor([0]), 8)
    memories.rows[:] = torch.arange(8.0).view(1, 8, 1)
    _, others = memories.recall(torch.tensor([0]), 8)
    assert others.shape == (2, 500, 3)
    assert others.unique().tolist() == list(range(8))


def test_chances_are_over_the_mean_of_the_first_batch():
    memories, scores = bank(), torch.randn(2, 2, 5)
    memories.recall(torch.tensor([0]), 8)
    first = memories.likely(scores)
    means = scores.exp().mean((1, 2)) * 8
    torch.testing.assert_close(first, scores.exp() / means.view(2, 1, 1))
    torch.testing.assert_close(memories.likely(scores + 1), first * torch.e)


def test_what_comes_back_goes_on():
    one, other = bank(), bank(seed=1)
    one.recall(torch.tensor([0]), 8)
    one.likely(torch.zeros(2, 1, 1))
    other.resume(one.state())
    pairs = zip(*(memories.recall(torch.tensor([3]), 8) for memories in (one, other)))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(one.scale, other.scale)
    assert (one.count, other.count, bank().count) == (8, 8, 0)
