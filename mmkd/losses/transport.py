"""EMD-l2: what it costs to move the local descriptors of one map onto those of another.

Maps are cut into windows. In each window the descriptors of the student's positions are matched
with those of the teacher's, wherever in the window these are. The plan that matches them is found
without gradient; by the envelope theorem the gradient through the distances alone is that of the
optimal cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Size, Tensor

from ..errors import InputError

SHARPNESS = 0.025
"""The entropy's weight in Sinkhorn's problem, as a share of the mean cost."""
ITERATIONS = 30
ANNEALED = 2 / 3
"""The share of the iterations in which that weight comes down from the whole mean cost."""
RELAXATION = 1.5
FLOOR = 1e-4
"""Added to a descriptor's squared length, so that a dead position's gradient stays bounded."""
TINY = 1e-30
BACKGROUND = 0.1
"""What a position without an object counts, beside 1 more for one inside a box."""
FINER = 4
"""Boxes are drawn on a grid this much finer than the map's, then pooled."""


@dataclass
class Windows:
    """Two maps cut into M windows of N positions at most; in smaller ones the rest is padding.

    Attributes:
        student: descriptors [M, N, C].
        teacher: descriptors [M, N, C], without gradient.
        marginals: how much each position counts in its window [M, N]; padding 0, each row's sum 1.
        shares: how much each window counts [M]; their sum is 1.
    """

    student: Tensor
    teacher: Tensor
    marginals: Tensor
    shares: Tensor


def windows_of(
    student: Tensor,
    teacher: Tensor,
    window: tuple[int, int],
    channels: str = 'group',
    normalize: str = 'center_l2',
    weights: Tensor | None = None,
) -> Windows:
    """Cut a student's and a teacher's map into windows of comparable descriptors.

    The student's map is pooled to the teacher's grid. Where the grid is no multiple of the window,
    the last windows are smaller; a window counts as much as its positions do together.

    Args:
        student: map [B, C, H, W].
        teacher: map; batch as the student's.
        window: height and width of a window.
        channels: a key of :data:`CHANNELS`.
        normalize: a key of :data:`DESCRIPTORS`.
        weights: how much each position of the teacher's grid counts [B, H, W], above 0; else alike.

    >>> cut = windows_of(torch.rand(2, 4, 8, 8), torch.rand(2, 8, 4, 4), (2, 2))
    >>> cut.student.shape, cut.marginals[0]
    (torch.Size([8, 4, 4]), tensor([0.2500, 0.2500, 0.2500, 0.2500]))
    """
    grid = teacher.shape[-2:]
    student = F.adaptive_avg_pool2d(student, (grid[0], grid[1]))
    if weights is None:
        weights = teacher.new_ones(teacher.shape[0], *grid)
    mass = cut(weights[:, None].to(teacher), window)[..., 0]
    totals = mass.sum(1)
    images = totals.view(len(teacher), -1).sum(1).repeat_interleave(len(mass) // len(teacher))
    describe = DESCRIPTORS[normalize]
    pair = CHANNELS[channels](cut(student, window), cut(teacher.detach(), window))
    first, second = (describe(side) for side in pair)
    return Windows(first, second, mass / totals[:, None], totals / images / len(teacher))


def cut(maps: Tensor, window: tuple[int, int]) -> Tensor:
    """Maps [B, C, H, W] as windows [M, N, C]; padded with zeros where the window does not fit.

    >>> cut(torch.arange(4.0).view(1, 1, 2, 2), (1, 2)).tolist()
    [[[0.0], [1.0]], [[2.0], [3.0]]]
    """
    height, width = window
    rows, columns = (-(-n // size) for n, size in zip(maps.shape[-2:], window))
    short = (columns * width - maps.shape[-1], rows * height - maps.shape[-2])
    if any(short):
        maps = F.pad(maps, (0, short[0], 0, short[1]))
    blocks = maps.unflatten(3, (columns, width)).unflatten(2, (rows, height))
    return blocks.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)


def even_window(size: int, largest: int) -> int:
    """The length of the fewest windows, all of one size if possible, that cover a map.

    >>> [even_window(size, 7) for size in (4, 7, 8, 10, 25)]
    [4, 7, 4, 5, 7]
    """
    count = -(-size // largest)
    return -(-size // count)


def box_weights(boxes: Sequence[Tensor], size: Size, image: Size) -> Tensor:
    """The share of each position that lies in boxes, and a little for all: [B, H, W].

    >>> box_weights([torch.tensor([[0.0, 0.0, 8.0, 8.0]])], Size((1, 2)), Size((8, 16)))
    tensor([[[1.1000, 0.1000]]])
    """
    fine = [FINER * n for n in size]
    drawn = torch.stack([_drawn(b.float(), fine, image) for b in boxes])
    return F.avg_pool2d(drawn[:, None], FINER)[:, 0] + BACKGROUND


def _drawn(boxes: Tensor, size: Sequence[int], image: Size) -> Tensor:
    """1 where a cell's centre lies in a box, else 0: [H, W]."""
    columns, rows = (
        (centres >= boxes[:, i, None]) & (centres < boxes[:, i + 2, None])
        for i, centres in enumerate(
            (torch.arange(size[axis], device=boxes.device) + 0.5) * image[axis] / size[axis]
            for axis in (1, 0)
        )
    )
    return (rows[:, :, None] & columns[:, None, :]).any(0).float()


# -- channels and descriptors -----------------------------------------------------------------


def group(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Many to one: the mean of every run of deep channels against one shallow channel.

    >>> group(torch.zeros(1, 1, 2), torch.tensor([[[0.0, 2.0, 4.0, 6.0]]]))[1]
    tensor([[[1., 5.]]])
    """
    count = min(student.shape[-1], teacher.shape[-1])
    return _pooled(student, count), _pooled(teacher, count)


def crop(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The first channels of the side that has more.

    >>> crop(torch.zeros(1, 1, 2), torch.tensor([[[0.0, 2.0, 4.0]]]))[1]
    tensor([[[0., 2.]]])
    """
    count = min(student.shape[-1], teacher.shape[-1])
    return student[..., :count], teacher[..., :count]


def reduce(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """All channels to one, their mean.

    >>> reduce(torch.zeros(1, 1, 2), torch.tensor([[[0.0, 2.0, 4.0]]]))[1]
    tensor([[[2.]]])
    """
    return student.mean(-1, keepdim=True), teacher.mean(-1, keepdim=True)


def center_l2(descriptors: Tensor) -> Tensor:
    """Each descriptor centred over its channels and of unit length; a single channel stays as it is.

    Without centring, means of channels after a ReLU are nearly collinear. A single channel would be
    centred to 0, or normalised to 1, everywhere.

    >>> center_l2(torch.tensor([[[1.0, 3.0]]])).round(decimals=3)
    tensor([[[-0.7070,  0.7070]]])
    """
    if descriptors.shape[-1] == 1:
        return descriptors
    centred = descriptors - descriptors.mean(-1, keepdim=True)
    return centred * (centred.square().sum(-1, keepdim=True) + FLOOR).rsqrt()


CHANNELS: Mapping[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    'group': group,
    'crop': crop,
    'reduce': reduce,
}
DESCRIPTORS: Mapping[str, Callable[[Tensor], Tensor]] = {
    'center_l2': center_l2,
    'none': lambda descriptors: descriptors,
}


# -- solvers ----------------------------------------------------------------------------------


@torch.no_grad()
def sinkhorn(
    cost: Tensor,
    marginals: Tensor,
    sharpness: float = SHARPNESS,
    iterations: int = ITERATIONS,
) -> Tensor:
    """Entropic transport plans [M, N, N] in the log domain and single precision.

    The entropy's weight is ``sharpness`` times the mean cost of each window. It comes down to that
    from the mean cost itself over the first iterations, and updates are over-relaxed: descriptors
    that form clusters would else keep a good part of their mass unmoved after so few iterations.
    Positions whose marginal is 0 take no part.

    >>> plan = sinkhorn(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), torch.tensor([[0.5, 0.5]]))
    >>> plan.round(decimals=3)
    tensor([[[0.5000, 0.0000],
             [0.0000, 0.5000]]])
    """
    cost, marginals = cost.float(), marginals.float()
    mean = torch.einsum('mp,mpq,mq->m', marginals, cost, marginals)
    kernel = -cost / mean.clamp_min(TINY)[:, None, None]
    target = marginals.log()  # -inf where there is nothing to move
    rows = columns = torch.zeros_like(target).masked_fill(marginals == 0, -torch.inf)
    for step in range(iterations):
        weight = sharpness ** min(1.0, step / (ANNEALED * iterations))
        relaxation = RELAXATION if 0 < step < iterations - 1 else 1.0
        scaled = kernel / weight
        moved = torch.logsumexp(scaled + (columns / weight)[:, None, :], 2)
        rows = _relaxed(rows, weight * (target - moved), relaxation)
        moved = torch.logsumexp(scaled + (rows / weight)[:, :, None], 1)
        columns = _relaxed(columns, weight * (target - moved), relaxation)
    return ((kernel + rows[:, :, None] + columns[:, None, :]) / sharpness).exp()


@torch.no_grad()
def exact(cost: Tensor, marginals: Tensor) -> Tensor:
    """The cheapest one-to-one assignment in each window, as plans [M, N, N].

    >>> exact(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), torch.tensor([[0.5, 0.5]]))
    tensor([[[0.5000, 0.0000],
             [0.0000, 0.5000]]])
    """
    refuse_nonuniform('exact', marginals)
    plan = torch.zeros_like(cost)
    for index, (costs, mass) in enumerate(zip(cost, marginals)):
        places = mass.nonzero().flatten()
        block = costs[places][:, places].double().cpu().numpy()
        rows, columns = (torch.from_numpy(side) for side in linear_sum_assignment(block))
        chosen = places[rows.to(places.device)], places[columns.to(places.device)]
        plan[index, chosen[0], chosen[1]] = mass[chosen[0]]
    return plan


PLANS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {'sinkhorn': sinkhorn, 'exact': exact}
SOLVERS = (*PLANS, 'sorted')


def transport_losses(problems: Sequence[Windows], solver: str = 'sinkhorn') -> list[Tensor]:
    """The transport cost of each pair of maps, over its windows as they count.

    Windows of one size are solved together, from whichever pair they are.

    >>> one = windows_of(torch.rand(1, 2, 7, 7), torch.rand(1, 2, 7, 7), (7, 7))
    >>> [loss.shape for loss in transport_losses([one, one])]
    [torch.Size([]), torch.Size([])]
    """
    if solver == 'sorted':
        costs = [sorted_costs(problem) for problem in problems]
    else:
        plans = _plans(problems, PLANS[solver])
        costs = [planned_costs(problem, plan) for problem, plan in zip(problems, plans)]
    return [(cost * problem.shares).sum() for cost, problem in zip(costs, problems)]


def planned_costs(problem: Windows, plan: Tensor) -> Tensor:
    """``sum_pq P_pq ||u_p - v_q||^2`` of each window: [M].

    Written as the distance of each student descriptor to the mean of those it is matched with, plus
    their spread about it, which has no gradient: so no distance of N x N is kept for the backward,
    and equal maps give 0 and not the rounding of a difference.
    """
    plan = plan.to(problem.student)
    mass, target = plan.sum(2), problem.teacher
    mean = plan @ target / mass.clamp_min(TINY)[..., None]
    spread = (plan.sum(1) * target.square().sum(2) - mass * mean.square().sum(2)).sum(1)
    distances = (problem.student - mean).square().sum(2)
    return (mass * distances).sum(1) + spread.clamp_min(0.0)


def sorted_costs(problem: Windows) -> Tensor:
    """The transport cost of every channel alone, summed: [M]; a lower bound of the whole's.

    >>> u, v = torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[3.0], [2.0]]])
    >>> sorted_costs(Windows(u, v, torch.tensor([[0.5, 0.5]]), torch.ones(1)))
    tensor([0.5000])
    """
    refuse_nonuniform('sorted', problem.marginals)
    padding = problem.marginals[..., None] == 0
    last = padding.sort(1).values  # padding is sorted to the end, where it is taken out
    ours, theirs = (
        side.masked_fill(padding, torch.inf).sort(1).values.masked_fill(last, 0.0)
        for side in (problem.student, problem.teacher)
    )
    return (ours - theirs).square().sum(2).sum(1) * problem.marginals.amax(1)


def refuse_nonuniform(solver: str, marginals: Tensor) -> None:
    """Stop if positions of one window count differently."""
    low = torch.where(marginals > 0, marginals, torch.inf).amin(1)
    high = marginals.amax(1)
    if not bool(torch.allclose(low, high, rtol=1e-4, atol=0.0)):
        raise InputError(
            f'solver={solver!r}: positions of a window have marginals from {low.min():.3g} to '
            f"{high.max():.3g}; it takes uniform ones only. solver='sinkhorn' takes any"
        )


def _plans(problems: Sequence[Windows], solve: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """The plans of all pairs, from one call of the solver for all windows of a size."""
    plans: dict[int, Tensor] = {}
    sizes = [problem.marginals.shape[1] for problem in problems]
    for size in set(sizes):
        same = [index for index, other in enumerate(sizes) if other == size]
        marginals = torch.cat([problems[index].marginals for index in same])
        if size == 1:
            solved = marginals[..., None]  # one position on either side leaves no choice
        else:
            solved = solve(torch.cat([_distances(problems[index]) for index in same]), marginals)
        lengths = [len(problems[index].marginals) for index in same]
        plans.update(zip(same, solved.split(lengths)))
    return [plans[index] for index in range(len(problems))]


@torch.no_grad()
def _distances(problem: Windows) -> Tensor:
    """``||u_p - v_q||^2``: [M, N, N]."""
    ours, theirs = problem.student, problem.teacher
    lengths = ours.square().sum(2)[:, :, None] + theirs.square().sum(2)[:, None, :]
    return (lengths - 2 * ours @ theirs.transpose(1, 2)).clamp_min(0.0)


def _relaxed(old: Tensor, new: Tensor, relaxation: float) -> Tensor:
    """Beyond the new potentials, by as much as they moved; -inf of padding stays."""
    return torch.where(old == -torch.inf, new, old + relaxation * (new - old))


def _pooled(descriptors: Tensor, count: int) -> Tensor:
    if descriptors.shape[-1] == count:
        return descriptors
    return F.adaptive_avg_pool1d(descriptors, count)
