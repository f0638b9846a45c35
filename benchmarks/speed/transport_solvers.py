"""How far the solvers of SFR's transport are from the optimum, and what they take.

    python benchmarks/speed/transport_solvers.py

Maps of 7 x 7 positions whose descriptors lie in clusters, the same in both maps, with other counts; one window
an image; CPU, one thread.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor

from mmkd.losses.transport import SOLVERS, transport_loss

IMAGES, SIDE, ROUNDS, NOISE = 64, 7, 9, 0.05


def clustered(channels: int, clusters: int, seed: int) -> Tensor:
    """Maps of which each position lies near one of a few centres."""
    rng = torch.Generator().manual_seed(0)
    centres = torch.rand(IMAGES, clusters, channels, generator=rng)  # those of both maps
    rng.manual_seed(seed)
    which = torch.randint(clusters, (IMAGES, SIDE * SIDE), generator=rng)
    chosen = centres.gather(1, which[:, :, None].expand(-1, -1, channels))
    noise = NOISE * torch.rand(chosen.shape, generator=rng)
    return (chosen + noise).transpose(1, 2).unflatten(2, (SIDE, SIDE)).contiguous()


def solved(solver: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The cost of every window, and the gradient at the student's map."""
    x = student.clone().requires_grad_()
    window = (SIDE, SIDE)
    costs = [
        transport_loss(x[i : i + 1], teacher[i : i + 1], window, solver=solver)
        for i in range(IMAGES)
    ]
    total = torch.stack(costs)
    return total.detach(), torch.autograd.grad(total.sum(), x)[0]


def seconds(solver: str, student: Tensor, teacher: Tensor) -> float:
    """The median time of the loss and its gradient for all images at once."""
    times = []
    for _ in range(ROUNDS):
        x = student.clone().requires_grad_()
        begin = time.perf_counter()
        transport_loss(x, teacher, (SIDE, SIDE), solver=solver).backward()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    torch.set_num_threads(1)
    print(
        'channels clusters solver    ms   cost: mean, worst window     gradient cosine: mean, worst'
    )
    for channels in (8, 16, 64):
        for clusters in (3, 10):
            student, teacher = clustered(channels, clusters, 1), clustered(channels, clusters, 2)
            best, slope = solved('exact', student, teacher)
            for solver in SOLVERS:
                cost, grad = solved(solver, student, teacher)
                off = cost / best - 1
                worst = off[off.abs().argmax()].item()
                cosine = torch.cosine_similarity(grad.flatten(1), slope.flatten(1))
                took = 1e3 * seconds(solver, student, teacher)
                print(
                    f'{channels:8d} {clusters:8d} {solver:8s} {took:5.1f}   {off.mean().item():+.1%}, '
                    f'{worst:+.1%}   {cosine.mean().item():.3f}, {cosine.min().item():.3f}'
                )


if __name__ == '__main__':
    main()
