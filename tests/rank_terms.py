"""Gradients of what methods add, alone, on several ranks; a module of its own for fresh processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import helpers as h
import torch
import torch.distributed as dist
from mmengine.logging import MessageHub
from rank_work import built
from torch import nn
from torch.distributed.nn.functional import all_reduce

from mmkd.family.logits import LogitDivergence

Images = Sequence[tuple[tuple[int, int], int]]
"""Height and width of each image, and how many boxes it has (3 at most)."""

OWN_TERMS = {
    *('loss', 'loss_logits', 'loss_attention', 'loss_localization', 'loss_features'),
    *('loss_foreground', 'loss_background', 'loss_relation'),
    *('loss_classes', 'loss_boxes', 'loss_bins', 'loss_region', 'loss_l1', 'loss_giou'),
}
"""What methods say beside mmdet's losses; those of FRSKD's self-teacher are mmdet's."""


def uneven_batch(images: Images, seed: int = 1) -> dict[str, Any]:
    """Drawn images of these sizes with the first few of their boxes."""
    batch = h.raw_batch('retinanet', tuple(size for size, _ in images), seed)
    for sample, (_, boxes) in zip(batch['data_samples'], images):
        sample.gt_instances = sample.gt_instances[:boxes]
    return batch


def mean_over_all(rows: torch.Tensor) -> torch.Tensor:
    """The mean of each row [N, M] over the columns of all ranks; what is made of it may differ by rank."""
    if not dist.is_initialized():
        return rows.mean(1, keepdim=True)
    count = rows.new_full((1, 1), float(rows.shape[1]))
    dist.all_reduce(count)
    return all_reduce(rows.sum(1, keepdim=True)) / count


class SyncedBN(nn.BatchNorm2d):
    """What torch's SyncBatchNorm does on GPUs, for CPU ranks: the batch's statistics are all ranks'."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        rows = maps.transpose(0, 1).flatten(1)
        rows = rows - mean_over_all(rows)
        rows = rows / (mean_over_all(rows.square()) + self.eps).sqrt()
        rows = rows * self.weight[:, None] + self.bias[:, None]
        return rows.unflatten(1, (len(maps), *maps.shape[2:])).transpose(0, 1)


def term_gradients(
    rank: int, configs: dict[str, Any], images: Images, synced: bool = False
) -> dict[str, Any]:
    """By config: the methods' own terms and the gradients that these alone give, under DDP on ranks.

    A rank takes every k-th image. Progress is 0.9, so that every ramp has begun. BatchNorm is frozen,
    or trained and ``synced``.
    """
    found = {}
    hub = MessageHub.get_current_instance()
    hub.update_info('max_iters', 10)
    hub.update_info('iter', 9)
    for name, config in configs.items():
        model, net, mine = built(rank, config)
        for module in model.modules() if synced else ():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = SyncedBN
        batch = {k: v[mine] for k, v in uneven_batch(images).items()}
        losses = net(**model.data_preprocessor(batch, True), mode='loss')
        terms = {k: v for k, v in losses.items() if k.partition('/')[2] in OWN_TERMS}
        # the rest by zero: distributed training waits for every gradient
        (model.parse_losses(losses)[0] * 0.0 + sum(terms.values())).backward()
        found[name] = {
            'terms': {key: float(value) for key, value in terms.items()},
            'gradients': {
                k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None
            },
        }
    hub.update_info('max_iters', 0)  # nothing runs any more
    return found


def farthest(ranks: Sequence[Any], alone: dict[str, Any]) -> dict[str, float]:
    """By config: the largest difference to one process's gradients, as a share of the largest of these."""
    shares = {}
    for name in alone:
        first, *rest = (_flat(side[name]['gradients']) for side in (alone, *ranks))
        shares[name] = float((torch.stack(rest) - first).abs().max() / first.abs().max())
    return shares


def _flat(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([gradients[key].flatten() for key in sorted(gradients)])


def trained_on_sizes(
    rank: int, configs: dict[str, Any], sizes: Sequence[tuple[int, int]], iterations: int
) -> dict[str, Any]:
    """By config: weights after some iterations of all losses, each rank on images of its own size.

    Half of the images never have a box, in the second iteration none of the last rank has. Progress is
    past the begin of every ramp.
    """
    found = {}
    hub = MessageHub.get_current_instance()
    hub.update_info('max_iters', 10 * iterations)
    for name, config in configs.items():
        model, net, _ = built(rank, config)
        before = {k: p.detach().clone() for k, p in model.named_parameters()}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        for iteration in range(iterations):
            hub.update_info('iter', 9 * iterations + iteration)
            empty = iteration == 1 and rank == len(sizes) - 1
            images = [(sizes[rank], 0 if empty else 3), (sizes[rank], 0)]
            batch = uneven_batch(images, seed=len(sizes) * iteration + rank)
            data = model.data_preprocessor(batch, True)
            optimizer.zero_grad()
            model.parse_losses(net(**data, mode='loss'))[0].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        weights = {k: p.detach().clone() for k, p in model.named_parameters()}
        moved = max(float((weights[k] - p).abs().max()) for k, p in before.items())
        found[name] = dict(weights=weights, moved=moved, size=tuple(data['inputs'].shape[-2:]))
    hub.update_info('max_iters', 0)  # nothing runs any more
    return found


def counted_gradients(rank: int, kind: str) -> torch.Tensor:
    """The gradient of a linear student's KD from seven rows: four, two and one on three ranks."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(7, 3, generator=generator)
    teacher = torch.randn(7, 4, generator=generator)
    if kind in ('dense', 'query'):
        chance = 0.16 + 0.02 * torch.rand(7, 4, generator=generator)
        teacher = (chance / (1 - chance)).log()
    mine = slice(None)
    if dist.is_initialized():
        mine = (slice(0, 4), slice(4, 6), slice(6, 7))[rank]
    weight = torch.ones(4, 3, requires_grad=True)
    compare = LogitDivergence(kind, kind in ('dense', 'query'), temperature=1.0)
    student = features[mine] @ weight.T
    with mock.patch.object(
        LogitDivergence, '_matched', lambda self, ours, theirs: (ours[0], theirs[0])
    ):
        compare([student], [teacher[mine]]).backward()
    assert weight.grad is not None
    return weight.grad
