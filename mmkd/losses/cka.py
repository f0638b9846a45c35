"""How alike two representations are: centred kernel alignment with the unbiased HSIC."""

from __future__ import annotations

import torch
from torch import Tensor

FEWEST = 4
"""The unbiased HSIC is defined from this many samples on."""


def gram(features: Tensor) -> Tensor:
    """The linear kernel of samples [N, ...]: all inner products, in float64, [N, N].

    The mean sample is taken away first. HSIC does not change with it, but keeps its digits.

    >>> gram(torch.tensor([[1.0], [3.0]]))
    tensor([[ 1., -1.],
            [-1.,  1.]], dtype=torch.float64)
    """
    flat = features.flatten(1)
    flat = flat - flat.mean(0)
    return (flat @ flat.T).double()


def hsic(first: Tensor, second: Tensor) -> Tensor:
    """The unbiased estimate of the Hilbert-Schmidt independence criterion of two kernels [N, N].

    ``1 / (n(n-3)) [tr(K L) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2 / (n-2) 1'KL1]``, diagonals zeroed
    (Song et al. 2012). Needs four samples or more.

    >>> hsic(torch.ones(4, 4), torch.ones(4, 4))
    tensor(0.)
    """
    n = first.shape[-1]
    first, second = (kernel - torch.diag(kernel.diag()) for kernel in (first, second))
    rows, others = first.sum(0), second.sum(0)
    trace = (first * second).sum()
    constants = rows.sum() * others.sum() / ((n - 1) * (n - 2))
    return (trace + constants - 2 / (n - 2) * (rows @ others)) / (n * (n - 3))


def hsic_terms(x: Tensor, y: Tensor) -> Tensor:
    """``[HSIC(x, y), HSIC(x, x), HSIC(y, y)]`` of samples [N, ...]; averages over batches are allowed.

    >>> hsic_terms(torch.eye(4), torch.eye(4)).shape
    torch.Size([3])
    """
    first, second = gram(x), gram(y)
    return torch.stack([hsic(first, second), hsic(first, first), hsic(second, second)])


def cka_of_terms(terms: Tensor) -> Tensor:
    """The alignment that (averaged) HSIC terms give; NaN where a representation is constant.

    >>> cka_of_terms(torch.tensor([1.0, 4.0, 1.0]))
    tensor(0.5000)
    """
    return terms[0] / (terms[1] * terms[2]).sqrt()


def cka(x: Tensor, y: Tensor) -> Tensor:
    """Centred kernel alignment of two representations [N, ...] of the same N samples, N >= 4.

    1 for representations that are equal up to rotation and scale; around 0 for unrelated ones,
    below it by chance.

    >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0], [4.0, 4.0], [3.0, 1.0]])
    >>> cka(x, -2 * x)
    tensor(1., dtype=torch.float64)
    """
    return cka_of_terms(hsic_terms(x, y))
