"""How far what queries find is from what a teacher's find with the same queries."""

from __future__ import annotations

import torch
from torch import Tensor

from .boxes import generalized_iou
from .kl import binary_kl, softmax_kl

Found = tuple[Tensor, Tensor]
"""Class logits [..., C] and boxes [..., 4] (centre, width, height; shares of the image) of some queries."""


def query_distances(student: Found, teacher: Found, sigmoid: bool) -> Tensor:
    """Of each query the KL of its classes, the L1 distance of its boxes, and 1 - GIoU: [3, ...].

    Independent classes (``sigmoid``) take the binary KL, summed over classes: the binary cross entropy less
    the teacher's own entropy, with the same gradient.

    >>> found = torch.zeros(1, 2), torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    >>> query_distances(found, found, sigmoid=True).flatten()
    tensor([0., 0., 0.])
    """
    (s, b), (t, u) = student, teacher
    classes = binary_kl(s, t).sum(-1) if sigmoid else softmax_kl(s, t)
    overlap = generalized_iou(corners(b).flatten(0, -2), corners(u).flatten(0, -2))
    return torch.stack([classes, (b - u).abs().sum(-1), 1 - overlap.view_as(classes)])


def certainty(logits: Tensor, sigmoid: bool) -> Tensor:
    """How sure each query is of an object, ``max_c p``; exclusive classes keep the background last.

    >>> certainty(torch.zeros(1, 3), sigmoid=True)
    tensor([0.5000])
    """
    return (logits.sigmoid() if sigmoid else logits.softmax(-1)[..., :-1]).amax(-1)


def corners(boxes: Tensor) -> Tensor:
    """Boxes (centre, width, height) as (x1, y1, x2, y2).

    >>> corners(torch.tensor([2.0, 2.0, 2.0, 4.0]))
    tensor([1., 0., 3., 4.])
    """
    centres, sizes = boxes.split(2, -1)
    return torch.cat([centres - sizes / 2, centres + sizes / 2], -1)
