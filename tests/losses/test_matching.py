"""The cheapest one-to-one assignment, against all assignments there are."""

from itertools import permutations

import pytest
import torch

from mmkd.losses.matching import BOX_COST, match_queries


def queries(number, seed):
    """Class probabilities of three classes, and boxes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(number, 3, generator=generator), torch.rand(number, 4, generator=generator)


def cost(student, teacher, i, j):
    classes, boxes = ((a[i] - b[j]).abs().sum().item() for a, b in zip(student, teacher))
    return classes + BOX_COST * boxes


@pytest.mark.parametrize(('ours', 'theirs'), [(4, 4), (3, 5), (5, 3)])
def test_it_is_the_cheapest_of_all(ours, theirs):
    student, teacher = queries(ours, 0), queries(theirs, 1)
    if ours <= theirs:
        pairings = [list(enumerate(order)) for order in permutations(range(theirs), ours)]
    else:
        pairings = [[(i, j) for j, i in enumerate(o)] for o in permutations(range(ours), theirs)]
    best = min(pairings, key=lambda pairs: sum(cost(student, teacher, *pair) for pair in pairs))
    rows, columns = match_queries(student, teacher)
    assert list(zip(rows.tolist(), columns.tolist())) == sorted(best)


def test_an_order_is_undone():
    student, order = queries(20, 0), torch.randperm(20, generator=torch.Generator().manual_seed(1))
    rows, columns = match_queries(student, tuple(part[order] for part in student))
    assert torch.equal(order[columns], rows)


def test_boxes_decide_between_queries_of_one_class():
    chances = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    boxes = torch.tensor([[0.1] * 4, [0.9] * 4])
    _, columns = match_queries((chances, boxes), (chances, boxes.flip(0)))
    assert columns.tolist() == [1, 0]


def test_tensors_with_gradient_are_matched_without():
    student, teacher = queries(6, 0), queries(6, 1)
    expected = match_queries(student, teacher)
    tracked = match_queries(tuple(part.requires_grad_() for part in student), teacher)
    assert all(torch.equal(a, b) for a, b in zip(tracked, expected))
