"""A mean over two groups of very different size, in which neither drowns the other."""

from __future__ import annotations

import torch
from torch import Tensor

from ..collectives import mean_over_ranks, world_size


def balanced_mean(values: Tensor, first: Tensor) -> Tensor:
    """The means of two groups, weighted by the square roots of their counts; summed over rows.

    ``sum_l (sqrt(n) m_l + sqrt(k) m'_l) / (sqrt(n) + sqrt(k))``: m of the n columns in the first group, m' of
    the k others. Counts are those of all ranks.

    Args:
        values: [L, N].
        first: which columns are in the first group: [N], bool.

    >>> balanced_mean(torch.tensor([[8.0, 1.0, 1.0, 1.0, 1.0]]), torch.tensor([1, 0, 0, 0, 0]).bool())
    tensor(3.3333)
    """
    groups = torch.stack([first, ~first]).to(values)
    counts = mean_over_ranks(groups.sum(1))
    means = (values[:, None] * groups).sum(2) / counts.clamp_min(1.0 / world_size())
    roots = counts.sqrt()
    return (means * roots / roots.sum()).sum()
