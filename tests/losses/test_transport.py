"""EMD-l2 over windows: its value against an independent solver, its gradient by finite differences."""

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from mmkd.errors import InputError
from mmkd.losses.transport import (
    CHANNELS,
    SOLVERS,
    box_weights,
    center_l2,
    cut,
    exact,
    sinkhorn,
    transport_losses,
    windows_of,
)


def loss(student, teacher, window=(7, 7), solver='sinkhorn', **options):
    return transport_losses([windows_of(student, teacher, window, **options)], solver)[0]


def maps(*channels, size=(7, 7), batch=2, dtype=torch.double, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.rand(batch, c, *size, generator=rng, dtype=dtype) for c in channels]


def by_hand(student, teacher, window, normalize):
    """Mean over images of the assignment's cost of each window, by the share of its positions."""
    total = 0.0
    height, width = teacher.shape[-2:]
    for u, v in zip(F.adaptive_avg_pool2d(student, (height, width)), teacher):
        for top in range(0, height, window[0]):
            for left in range(0, width, window[1]):
                rows, columns = (
                    side[:, top : top + window[0], left : left + window[1]].flatten(1).T
                    for side in (u, v)
                )
                if normalize == 'center_l2':
                    rows, columns = center_l2(rows), center_l2(columns)
                cost = torch.cdist(rows, columns).square()
                chosen = linear_sum_assignment(cost.numpy())
                total += cost[chosen].sum().item() / (height * width)
    return total / len(teacher)


@pytest.mark.parametrize('normalize', ['center_l2', 'none'])
@pytest.mark.parametrize('size', [(7, 7), (14, 7), (9, 11), (1, 1), (8, 3)])
def test_exact_is_the_assignment_of_every_window_odd_sizes_included(size, normalize):
    student, teacher = maps(5, 5, size=size)
    ours = loss(student, teacher, solver='exact', normalize=normalize).item()
    assert ours == pytest.approx(by_hand(student, teacher, (7, 7), normalize), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize('channels', CHANNELS)
@pytest.mark.parametrize('solver', ['exact', 'sorted'])
@pytest.mark.parametrize('normalize', ['center_l2', 'none'])
def test_finite_differences_confirm_the_gradient(channels, solver, normalize):
    student, teacher = maps(3, 6, size=(4, 5), batch=1)
    student.requires_grad_()

    def value(x):
        return loss(x, teacher, (3, 3), solver, channels=channels, normalize=normalize)

    (gradient,) = torch.autograd.grad(value(student), student)
    assert gradient.abs().max() > 1e-4
    step = 1e-6
    for place in range(student.numel()):
        moved = torch.zeros(student.numel(), dtype=torch.double)
        moved[place] = step
        moved = moved.view_as(student)
        with torch.no_grad():
            slope = (value(student + moved) - value(student - moved)).item() / (2 * step)
        assert gradient.flatten()[place].item() == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_the_gradient_is_that_of_the_cost_under_a_fixed_plan():
    student, teacher = maps(4, 4, batch=3)
    student.requires_grad_()
    problem = windows_of(student, teacher, (7, 7))
    ours = transport_losses([problem])[0]
    cost = (problem.student[:, :, None] - problem.teacher[:, None]).square().sum(3)
    plan = sinkhorn(cost.detach(), problem.marginals).double()
    plain = (plan * cost).sum((1, 2)).mean()
    assert ours.item() == pytest.approx(plain.item(), rel=1e-5)
    first, second = (torch.autograd.grad(x, student, retain_graph=True)[0] for x in (ours, plain))
    assert torch.allclose(first, second, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize('kind', ['noise', 'relu', 'sparse', 'related', 'clusters'])
@pytest.mark.parametrize('count', [16, 64, 256])
def test_sinkhorn_is_within_three_percent_of_exact(kind, count):
    rng = torch.Generator().manual_seed(count)
    student, teacher = (torch.randn(8, count, 7, 7, generator=rng) for _ in range(2))
    if kind == 'relu':
        student, teacher = student.relu(), teacher.relu()
    if kind == 'sparse':
        student, teacher = (student - 1).relu(), (teacher - 1).relu()
    if kind == 'related':
        smooth = F.avg_pool2d(teacher, 3, 1, 1)
        student, teacher = (smooth + 0.3 * student).relu(), smooth.relu()
    if kind == 'clusters':
        centres = torch.randn(5, count, generator=rng)
        student, teacher = (
            (centres[torch.randint(5, (8, 7, 7), generator=rng)].permute(0, 3, 1, 2) + 0.05 * noise)
            for noise in (student, teacher)
        )
    values = [loss(student, teacher, solver=solver).item() for solver in ('sinkhorn', 'exact')]
    assert values[0] == pytest.approx(values[1], rel=0.03)


def test_one_position_crop_none_and_all_pairs_is_the_l2_loss():
    stages = maps(4, 8, 16, size=(8, 8), dtype=torch.float)
    stages = [F.avg_pool2d(stage, 2**i) if i else stage for i, stage in enumerate(stages)]
    pairs = [(0, 1), (0, 2), (1, 2)]
    problems = [
        windows_of(stages[i], stages[j], (1, 1), channels='crop', normalize='none')
        for i, j in pairs
    ]
    ours = torch.stack(transport_losses(problems)).mean()
    expected = 0.0
    for i, j in pairs:
        pooled = F.adaptive_avg_pool2d(stages[i], stages[j].shape[-2:])
        difference = pooled - stages[j][:, : pooled.shape[1]]
        expected += difference.square().sum(1).mean().item() / 3
    assert ours.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('solver', SOLVERS)
def test_the_teacher_gets_no_gradient_and_the_student_does(solver):
    student, teacher = (x.requires_grad_() for x in maps(4, 8))
    loss(student, teacher, solver=solver).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize('solver', SOLVERS)
def test_permuting_the_teachers_descriptors_in_a_window_changes_nothing(solver):
    student, teacher = maps(4, 8, size=(7, 14))
    order = torch.randperm(49)
    left, right = (side.flatten(2) for side in teacher.split(7, 3))
    moved = torch.cat([left[:, :, order], right[:, :, order.flip(0)]], 1)
    moved = torch.cat([x.unflatten(2, (7, 7)) for x in moved.split(8, 1)], 3)
    values = [loss(student, t, solver=solver).item() for t in (teacher, moved)]
    assert values[1] == pytest.approx(values[0], rel=1e-6)
    swapped = torch.cat([teacher[..., 7:], teacher[..., :7]], 3)
    assert loss(student, swapped, solver=solver).item() != pytest.approx(values[0], rel=1e-4)


@pytest.mark.parametrize('dtype', [torch.float, torch.double])
def test_equal_maps_cost_nothing(dtype):
    (map_,) = maps(16, size=(9, 9), dtype=dtype)
    assert loss(map_, map_, solver='exact').item() < 1e-6
    assert loss(map_, map_, solver='sorted').item() == 0
    different = loss(map_, map_.flip(0), solver='exact').item()
    assert loss(map_, map_).item() < 0.05 * different


def test_group_is_the_explicit_one_to_many_l2_loss_up_to_a_constant():
    student, teacher = maps(4, 12, size=(5, 5))
    student.requires_grad_()
    ours = loss(student, teacher, (1, 1), normalize='none')
    repeated = student.repeat_interleave(3, 1)
    explicit = (repeated - teacher).square().sum(1).mean() / 3
    runs = teacher.unflatten(1, (4, 3))
    constant = (runs - runs.mean(2, keepdim=True)).square().sum((1, 2)).mean() / 3
    assert (explicit - ours - constant).abs().item() < 1e-13
    first, second = (torch.autograd.grad(x, student)[0] for x in (ours, explicit))
    assert torch.allclose(first, second, rtol=0, atol=1e-14)


def test_channels_that_do_not_divide_are_pooled_on_both_sides():
    student, teacher = maps(5, 12)
    problem = windows_of(student, teacher, (7, 7), normalize='none')
    assert problem.student.shape == problem.teacher.shape == (2, 49, 5)
    assert windows_of(teacher, student, (7, 7)).student.shape == (2, 49, 5)


@pytest.mark.parametrize('size', [(7, 7), (9, 10)])
def test_sorted_is_exact_for_one_channel_and_a_lower_bound_otherwise(size):
    student, teacher = maps(4, 8, size=size)
    one = dict(channels='reduce')
    values = [loss(student, teacher, solver=s, **one).item() for s in ('sorted', 'exact')]
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    values = [loss(student, teacher, solver=s).item() for s in ('sorted', 'exact')]
    assert values[0] < values[1]


@pytest.mark.parametrize('solver', SOLVERS)
@pytest.mark.parametrize('size', [(1, 1), (7, 7), (8, 9), (3, 20)])
@pytest.mark.parametrize('value', [0.0, 1.0, 1e4, 'rand'])
def test_values_and_gradients_are_finite(solver, size, value):
    student, teacher = maps(4, 8, size=size, dtype=torch.float)
    if value != 'rand':
        student, teacher = torch.full_like(student, value), torch.full_like(teacher, value)
    student.requires_grad_()
    result = loss(student, teacher, solver=solver)
    result.backward()
    assert result.isfinite()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 1e3


def test_it_is_finite_under_autocast():
    student, teacher = (x.bfloat16() for x in maps(4, 8))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert loss(student.float(), teacher.float()).isfinite()
        assert loss(student, teacher).isfinite()


def test_weights_are_the_marginals_and_the_share_of_a_window():
    student, teacher = maps(4, 4, size=(7, 14))
    weights = torch.full((2, 7, 14), 0.1, dtype=torch.double)
    weights[:, 2:5, 1:4] = 1.1
    problem = windows_of(student, teacher, (7, 7), weights=weights)
    assert torch.allclose(problem.marginals.sum(1), torch.ones(4).double())
    mass = torch.tensor([13.9, 4.9]).double()
    assert torch.allclose(problem.shares.view(2, 2), (mass / mass.sum() / 2).expand(2, 2))
    cost = (problem.student[:, :, None] - problem.teacher[:, None]).square().sum(3)
    for iterations, misplaced in ((30, 0.03), (100, 1e-3)):
        plan = sinkhorn(cost, problem.marginals, iterations=iterations)
        assert torch.allclose(plan.sum(1), problem.marginals.float(), atol=1e-6)
        assert ((plan.sum(2) - problem.marginals).abs().sum(1) < misplaced).all()


@pytest.mark.parametrize('solver', ['exact', 'sorted'])
def test_marginals_that_are_not_uniform_need_sinkhorn(solver):
    student, teacher = maps(4, 4)
    weights = torch.rand(2, 7, 7) + 0.1
    with pytest.raises(InputError, match=f"solver='{solver}': .* solver='sinkhorn' takes any"):
        loss(student, teacher, solver=solver, weights=weights)
    assert loss(student, teacher, weights=weights).isfinite()


def test_pairs_of_windows_are_solved_alike_together_and_alone():
    pairs = [
        maps(4, 8, size=size, seed=i) for i, size in enumerate([(7, 7), (7, 9), (2, 2), (1, 1)])
    ]
    windows = [(7, 7), (7, 7), (2, 2), (1, 1)]
    problems = [windows_of(*pair, window) for pair, window in zip(pairs, windows)]
    together = transport_losses(problems)
    for problem, value in zip(problems, together):
        assert torch.allclose(transport_losses([problem])[0], value)


def test_padding_takes_no_part():
    (map_,) = maps(3, size=(4, 5))
    mass = cut(torch.ones(2, 1, 4, 5), (3, 3))[..., 0]
    assert mass.sum(1).tolist() == [9, 6, 3, 2] * 2
    cost = torch.rand(8, 9, 9)
    marginals = mass / mass.sum(1, keepdim=True)
    for solve in (sinkhorn, exact):
        plan = solve(cost, marginals)
        assert plan[mass == 0].eq(0).all()
        assert plan.transpose(1, 2)[mass == 0].eq(0).all()
    assert cut(map_, (3, 3)).shape == (8, 9, 3)


def test_boxes_weigh_the_share_of_a_position_that_they_cover():
    boxes = [torch.tensor([[0.0, 0.0, 32.0, 16.0], [0.0, 0.0, 16.0, 64.0]]), torch.zeros(0, 4)]
    weights = box_weights(boxes, torch.Size((2, 2)), torch.Size((64, 64)))
    expected = torch.tensor([[[0.85, 0.1], [0.6, 0.1]], [[0.1, 0.1], [0.1, 0.1]]])
    expected[0, 0, 0] = 0.1 + (32 * 16 + 16 * 16) / 32**2
    assert torch.allclose(weights, expected)
