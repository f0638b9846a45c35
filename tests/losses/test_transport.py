"""EMD-l2 over windows: its value against independent solvers, its gradient by finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment, linprog

from mmkd.losses.transport import SOLVERS, box_weights, cut, exact, sinkhorn, transport_loss


def maps(*channels, size=(7, 7), batch=2, dtype=torch.double, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.rand(batch, c, *size, generator=rng, dtype=dtype) for c in channels]


def described(block, count):
    """A window's descriptors [N, C]: means of runs of channels, centred, of unit length but for 1e-4."""
    channels = block.shape[0]
    edges = [(i * channels // count, -(-(i + 1) * channels // count)) for i in range(count)]
    rows = torch.stack([block[a:b].mean(0) for a, b in edges], -1).flatten(0, 1)
    if count == 1:
        return rows
    centred = rows - rows.mean(1, keepdim=True)
    return centred / (centred.square().sum(1, keepdim=True) + 1e-4).sqrt()


def assigned(cost, _):
    """The optimal cost where all positions count alike."""
    return cost[linear_sum_assignment(cost)].mean()


def programmed(cost, mass):
    """The optimal cost for any marginals, as a linear program over plans."""
    n = len(cost)
    sums = np.concatenate([np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))])
    found = linprog(cost.flatten(), A_eq=sums, b_eq=np.concatenate([mass, mass]) / mass.sum())
    return found.fun


def by_hand(student, teacher, window, weights=None, optimum=assigned):
    """Mean over images of the optimal cost of each window, by the share of its positions."""
    total, (height, width) = 0.0, teacher.shape[-2:]
    weights = teacher.new_ones(len(teacher), height, width) if weights is None else weights
    count = min(student.shape[1], teacher.shape[1])
    for u, v, w in zip(F.adaptive_avg_pool2d(student, (height, width)), teacher, weights):
        for top in range(0, height, window[0]):
            for left in range(0, width, window[1]):
                place = (..., slice(top, top + window[0]), slice(left, left + window[1]))
                ours, theirs = described(u[place], count), described(v[place], count)
                cost = torch.cdist(ours, theirs).square().numpy()
                share = w[place].sum() / w.sum()
                total += share.item() * optimum(cost, w[place].flatten().numpy())
    return total / len(teacher)


# -- exact ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('channels', [(5, 5), (4, 12), (5, 12), (8, 4), (1, 3)])
@pytest.mark.parametrize('size', [(7, 7), (9, 11), (1, 1), (8, 3)])
def test_exact_is_the_assignment_of_every_window_odd_sizes_included(size, channels):
    student, teacher = maps(*channels, size=size)
    ours = transport_loss(student, teacher, (7, 7)).item()
    assert ours == pytest.approx(by_hand(student, teacher, (7, 7)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize('size', [(16, 16), (15, 9)])
def test_the_students_map_is_pooled_to_the_teachers_grid(size):
    (student,), (teacher,) = maps(4, size=size), maps(8, size=(5, 4), seed=1)
    ours = transport_loss(student, teacher, (5, 4)).item()
    assert ours == pytest.approx(by_hand(student, teacher, (5, 4)), rel=1e-9)


def test_windows_of_one_position_are_the_l2_loss_of_descriptors():
    student, teacher = maps(4, 8, size=(6, 5))
    ours = transport_loss(student, teacher, (1, 1)).item()
    runs = teacher.unflatten(1, (4, 2)).mean(2)
    sides = [side - side.mean(1, keepdim=True) for side in (student, runs)]
    first, second = (side / (side.square().sum(1, keepdim=True) + 1e-4).sqrt() for side in sides)
    assert ours == pytest.approx((first - second).square().sum(1).mean().item(), rel=1e-9)


@pytest.mark.parametrize('window', [(3, 3), (1, 1), (4, 5)])
@pytest.mark.parametrize('channels', [(3, 6), (1, 2)])
def test_finite_differences_confirm_the_gradient(channels, window):
    student, teacher = maps(*channels, size=(4, 5), batch=1)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(transport_loss(student, teacher, window), student)
    assert gradient.abs().max() > 1e-4
    step = 1e-6
    for place in range(student.numel()):
        moved = torch.zeros(student.numel(), dtype=torch.double)
        moved[place] = step
        with torch.no_grad():
            above, below = (
                transport_loss(student + sign * moved.view_as(student), teacher, window)
                for sign in (1, -1)
            )
        slope = (above - below).item() / (2 * step)
        assert gradient.flatten()[place].item() == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_what_is_not_finite_gives_a_loss_that_is_not():
    for value in (torch.nan, torch.inf):
        student, teacher = maps(4, 4, dtype=torch.float)
        student[0, 0, 0, 0] = value
        assert not transport_loss(student, teacher, (7, 7)).isfinite()


# -- Sinkhorn -------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['noise', 'relu', 'sparse', 'related'])
def test_sinkhorn_is_within_three_percent_of_exact_on_maps_without_clusters(kind):
    rng = torch.Generator().manual_seed(64)
    student, teacher = (torch.randn(8, 64, 7, 7, generator=rng) for _ in range(2))
    if kind == 'relu':
        student, teacher = student.relu(), teacher.relu()
    if kind == 'sparse':
        student, teacher = (student - 1).relu(), (teacher - 1).relu()
    if kind == 'related':
        smooth = F.avg_pool2d(teacher, 3, 1, 1)
        student, teacher = (smooth + 0.3 * student).relu(), smooth.relu()
    values = [transport_loss(student, teacher, (7, 7), solver=s).item() for s in SOLVERS]
    assert values[1] == pytest.approx(values[0], rel=0.03)


@pytest.mark.parametrize('size', [(4, 4), (4, 6), (5, 7)])
def test_sinkhorn_finds_the_optimum_of_weighted_positions(size):
    student, teacher = maps(16, 16, size=size)
    weights = torch.full((2, *size), 0.1, dtype=torch.double)
    weights[:, 1:3, 1:4] = 1.1
    ours = transport_loss(student, teacher, (4, 4), weights, 'sinkhorn').item()
    expected = by_hand(student, teacher, (4, 4), weights, programmed)
    assert ours == pytest.approx(expected, rel=0.03)
    alike = by_hand(student, teacher, (4, 4))
    assert abs(alike - expected) > 0.05 * expected


def test_sinkhorns_plans_have_the_marginals_and_cost_no_less_than_the_optimum():
    centres = torch.rand(
        3, 8
    )  # clusters that both sides share leave mass unmoved before convergence
    sides = [centres[torch.randint(3, (16, 49))] + 0.01 * torch.rand(16, 49, 8) for _ in 'st']
    cost, uniform = torch.cdist(*sides).square(), torch.full((16, 49), 1 / 49)
    optimum = (exact(cost, uniform) * cost).sum((1, 2))
    for mass in (uniform, (torch.rand(16, 49) + 0.1).softmax(1)):
        plan = sinkhorn(cost, mass)
        assert plan.min() >= 0
        assert torch.allclose(plan.sum(1), mass, atol=1e-6)
        assert torch.allclose(plan.sum(2), mass, atol=1e-6)
    over = (sinkhorn(cost, uniform) * cost).sum((1, 2)) / optimum
    assert over.min() > 1 - 1e-5
    assert over.mean() < 1.25


# -- both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('solver', SOLVERS)
def test_the_gradient_is_that_of_the_cost_under_a_fixed_plan(solver):
    student, teacher = maps(4, 4, batch=3)
    student.requires_grad_()
    ours = transport_loss(student, teacher, (7, 7), solver=solver)
    sides = [torch.stack([described(m, 4) for m in side]) for side in (student, teacher)]
    cost = (sides[0][:, :, None] - sides[1][:, None]).square().sum(3)
    uniform = torch.full((3, 49), 1 / 49)
    plan = SOLVERS[solver](cost.detach(), uniform).double()
    plain = (plan * cost).sum((1, 2)).mean()
    assert ours.item() == pytest.approx(plain.item(), rel=1e-5)
    first, second = (torch.autograd.grad(x, student, retain_graph=True)[0] for x in (ours, plain))
    assert torch.allclose(first, second, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize('solver', SOLVERS)
def test_the_teacher_gets_no_gradient_and_the_student_does(solver):
    student, teacher = (x.requires_grad_() for x in maps(4, 8))
    transport_loss(student, teacher, (7, 7), solver=solver).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize('solver', SOLVERS)
def test_permuting_the_teachers_descriptors_in_a_window_changes_nothing(solver):
    student, teacher = maps(4, 8, size=(7, 14))
    order = torch.randperm(49)
    left, right = (side.flatten(2) for side in teacher.split(7, 3))
    moved = torch.cat([left[:, :, order], right[:, :, order.flip(0)]], 1)
    moved = torch.cat([x.unflatten(2, (7, 7)) for x in moved.split(8, 1)], 3)
    swapped = torch.cat([teacher[..., 7:], teacher[..., :7]], 3)
    values = [
        transport_loss(student, t, (7, 7), solver=solver).item() for t in (teacher, moved, swapped)
    ]
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    assert values[2] != pytest.approx(values[0], rel=1e-4)


@pytest.mark.parametrize('dtype', [torch.float, torch.double])
def test_equal_maps_cost_nothing(dtype):
    (map_,) = maps(16, size=(9, 9), dtype=dtype)
    different = transport_loss(map_, map_.flip(0), (7, 7)).item()
    assert transport_loss(map_, map_, (7, 7)).item() < 1e-6
    assert transport_loss(map_, map_, (7, 7), solver='sinkhorn').item() < 0.05 * different


@pytest.mark.parametrize('solver', SOLVERS)
@pytest.mark.parametrize('size', [(1, 1), (7, 7), (8, 9), (3, 20)])
@pytest.mark.parametrize('value', [0.0, 1.0, 1e4, 'rand'])
def test_values_and_gradients_are_finite(solver, size, value):
    student, teacher = maps(4, 8, size=size, dtype=torch.float)
    if value != 'rand':
        student, teacher = torch.full_like(student, value), torch.full_like(teacher, value)
    student.requires_grad_()
    result = transport_loss(student, teacher, (7, 7), solver=solver)
    result.backward()
    assert result.isfinite()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 1e3


def test_padding_takes_no_part():
    (map_,) = maps(3, size=(4, 5))
    mass = cut(torch.ones(2, 1, 4, 5), (3, 3))[..., 0]
    assert mass.sum(1).tolist() == [9, 6, 3, 2] * 2
    assert cut(map_, (3, 3)).shape == (8, 9, 3)
    cost, marginals = torch.rand(8, 9, 9), mass / mass.sum(1, keepdim=True)
    for solve in (sinkhorn, exact):
        plan = solve(cost, marginals)
        assert plan[mass == 0].max() < 1e-20
        assert plan.transpose(1, 2)[mass == 0].max() < 1e-20


def test_boxes_weigh_the_share_of_a_position_that_they_cover():
    boxes = [torch.tensor([[0.0, 0.0, 32.0, 16.0], [0.0, 0.0, 16.0, 64.0]]), torch.zeros(0, 4)]
    weights = box_weights(boxes, torch.Size((2, 2)), torch.Size((64, 64)))
    expected = torch.tensor([[[0.85, 0.1], [0.6, 0.1]], [[0.1, 0.1], [0.1, 0.1]]])
    expected[0, 0, 0] = 0.1 + (32 * 16 + 16 * 16) / 32**2
    assert torch.allclose(weights, expected)
