"""Noise-contrastive estimation: a sample is told from noise by how much likelier it is."""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-7


def noise_contrast(positive: Tensor, negative: Tensor, noise: float) -> Tensor:
    """``-log(p / (p + c)) - sum_k log(c / (n_k + c))``, the mean over rows.

    Args:
        positive: how likely each sample is by the model, p: [B].
        negative: how likely its K noises are, n: [B, K].
        noise: how likely each is as noise, times K, c.

    >>> import torch
    >>> noise_contrast(torch.tensor([1.0]), torch.tensor([[1.0]]), 1.0)
    tensor(1.3863)
    """
    found = (positive / (positive + noise + EPSILON)).log()
    told = (noise / (negative + noise + EPSILON)).log()
    return -(found + told.sum(1)).mean()
