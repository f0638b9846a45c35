"""EMD-l2: what it costs to move the local descriptors of one map onto those of another.

Maps are cut into windows. In each window the descriptors of the student's positions are matched
with those of the teacher's, wherever in the window these are. The plan that matches them is found
without gradient; by the envelope theorem the gradient through the distances alone is that of the
optimal cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Size, Tensor

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


def cut(maps: Tensor, window: tuple[int, int]) -> Tensor:
    """Maps [B, C, H, W] as windows [M, N, C]; padded with zeros where the window does not fit.

    >>> cut(torch.arange(4.0).view(1, 1, 2, 2), (1, 2)).tolist()
    [[[0.0], [1.0]], [[2.0], [3.0]]]
    """
    rows, columns = (-(-n // size) for n, size in zip(maps.shape[-2:], window))
    below, right = rows * window[0] - maps.shape[-2], columns * window[1] - maps.shape[-1]
    padded = F.pad(maps, (0, right, 0, below))
    blocks = padded.unflatten(3, (columns, window[1])).unflatten(2, (rows, window[0]))
    return blocks.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)


def even_window(size: int, largest: int) -> int:
    """The length of the fewest windows, all of one size if possible, that cover a map.

    >>> [even_window(size, 7) for size in (4, 7, 8, 10, 25)]
    [4, 7, 4, 5, 7]
    """
    count = -(-size // largest)
    return -(-size // count)


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


def box_weights(boxes: Sequence[Tensor], size: Size, image: Size) -> Tensor:
    """The share of each position that lies in boxes, and a little for all: [B, H, W].

    >>> box_weights([torch.tensor([[0.0, 0.0, 8.0, 8.0]])], Size((1, 2)), Size((8, 16)))
    tensor([[[1.1000, 0.1000]]])
    """
    rows, columns = (
        (torch.arange(FINER * n, device=boxes[0].device) + 0.5) * pixels / (FINER * n)
        for n, pixels in zip(size, image)
    )
    drawn = []
    for left, top, right, bottom in (b.float().T[..., None] for b in boxes):
        inside_y, inside_x = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
        drawn.append((inside_y[:, :, None] & inside_x[:, None, :]).any(0).float())
    return F.avg_pool2d(torch.stack(drawn)[:, None], FINER)[:, 0] + BACKGROUND


@torch.no_grad()
def exact(cost: Tensor, marginals: Tensor) -> Tensor:
    """The cheapest one-to-one assignment in each window, as plans [M, N, N].

    It is the optimal plan where positions count alike; where they do not, it is none. SciPy solves
    one window after the other on the CPU. Costs that are not finite count as 0, so that a batch
    with an overflow has a plan, and a loss that says so.

    >>> exact(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), torch.tensor([[0.5, 0.5]]))
    tensor([[[0.5000, 0.0000],
             [0.0000, 0.5000]]])
    """
    costs, masses = (
        side.nan_to_num(posinf=0.0, neginf=0.0).cpu().numpy() for side in (cost, marginals)
    )
    plan = np.zeros_like(costs)
    for window, mass, moved in zip(costs, masses, plan):
        places = mass.nonzero()[0]
        rows, columns = linear_sum_assignment(window[np.ix_(places, places)])
        moved[places[rows], places[columns]] = mass[places[rows]]
    return torch.from_numpy(plan).to(cost)


@torch.no_grad()
def sinkhorn(cost: Tensor, marginals: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Entropic transport plans [M, N, N] for any marginals, in the log domain and single precision.

    The entropy's weight is ``SHARPNESS`` times the mean cost of each window. It comes down to that
    from the mean cost itself over the first iterations, and updates are over-relaxed: descriptors
    that form clusters would else keep a good part of their mass unmoved after so few iterations.

    >>> plan = sinkhorn(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), torch.tensor([[0.5, 0.5]]))
    >>> plan.round(decimals=3)
    tensor([[[0.5000, 0.0000],
             [0.0000, 0.5000]]])
    """
    cost, marginals = cost.float(), marginals.float()
    mean = torch.einsum('mp,mpq,mq->m', marginals, cost, marginals)
    kernel = -cost / mean.clamp_min(TINY)[:, None, None]
    target = marginals.clamp_min(TINY).log()
    rows = columns = target
    for step in range(iterations):
        weight = SHARPNESS ** min(1.0, step / (ANNEALED * iterations))
        relaxation = RELAXATION if 0 < step < iterations - 1 else 1.0
        moved = torch.logsumexp((kernel + columns[:, None, :]) / weight, 2)
        rows = rows + relaxation * (weight * (target - moved) - rows)
        moved = torch.logsumexp((kernel + rows[:, :, None]) / weight, 1)
        columns = columns + relaxation * (weight * (target - moved) - columns)
    return feasible(
        ((kernel + rows[:, :, None] + columns[:, None, :]) / SHARPNESS).exp(), marginals
    )


def feasible(plan: Tensor, marginals: Tensor) -> Tensor:
    """The nearest plan that moves just what there is: too much is scaled down, the rest moved pro rata.

    >>> feasible(torch.tensor([[[0.4, 0.2], [0.2, 0.2]]]), torch.tensor([[0.5, 0.5]])).sum(1)
    tensor([[0.5000, 0.5000]])
    """
    plan = plan * (marginals / plan.sum(2).clamp_min(TINY)).clamp_max(1.0)[:, :, None]
    plan = plan * (marginals / plan.sum(1).clamp_min(TINY)).clamp_max(1.0)[:, None, :]
    left, lacking = ((marginals - plan.sum(side)).clamp_min(0.0) for side in (2, 1))
    share = lacking / lacking.sum(1, keepdim=True).clamp_min(TINY)
    return plan + left[:, :, None] * share[:, None, :]


SOLVERS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {'exact': exact, 'sinkhorn': sinkhorn}


def transport_loss(
    student: Tensor,
    teacher: Tensor,
    window: tuple[int, int],
    weights: Tensor | None = None,
    solver: str = 'exact',
) -> Tensor:
    """``sum_pq P_pq ||u_p - v_q||^2`` of the plan P in each window, the mean over all positions.

    The student's map is pooled to the teacher's grid; many to one, runs of channels are averaged on
    the side that has more. Where the grid is no multiple of the window, the last windows are
    smaller; a window counts as much as its positions do together.

    Args:
        student: map [B, C, H, W].
        teacher: map; batch as the student's. It gets no gradient.
        window: height and width of a window.
        weights: how much each position of the teacher's grid counts [B, H, W], above 0; else alike.
        solver: a key of :data:`SOLVERS`.

    >>> transport_loss(torch.rand(2, 4, 8, 8), torch.zeros(2, 8, 4, 4), (2, 2)).shape
    torch.Size([])
    """
    height, width = teacher.shape[-2:]
    student = F.adaptive_avg_pool2d(student, (height, width))
    channels = min(student.shape[1], teacher.shape[1])
    ours, theirs = (
        center_l2(F.adaptive_avg_pool1d(cut(side, window), channels))
        for side in (student, teacher.detach())
    )
    if weights is None:
        weights = teacher.new_ones(len(teacher), height, width)
    mass = cut(weights[:, None].to(teacher), window)[..., 0]
    totals = mass.sum(1)
    lengths = ours.square().sum(2)[:, :, None] + theirs.square().sum(2)[:, None, :]
    cost = (lengths - 2 * ours @ theirs.transpose(1, 2)).clamp_min(0.0)
    plan = SOLVERS[solver](cost.detach(), mass / totals[:, None]).to(cost)
    costs = (plan * cost).sum((1, 2)).view(len(teacher), -1)
    totals = totals.view_as(costs)
    return ((totals * costs).sum(1) / totals.sum(1)).mean()
