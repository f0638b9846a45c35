"""VGG nets for images of 32x32, as in contrastive representation distillation (ICLR 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..errors import InputError
from ..registry import MODELS
from .staged import StagedBackbone, conv_bn_relu

WIDTHS = (3, 64, 128, 256, 512, 512)
"""Channels of the image and of the stages."""

LAYERS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Convolutions of each stage by depth."""


@MODELS.register_module()
class CIFARVGG(StagedBackbone):
    """VGG with batch norm: five stages, max pools before the second, third and fourth.

    >>> import torch
    >>> net = CIFARVGG(8, out_indices=(0, 2, 3, 4))
    >>> [tuple(output.shape) for output in net(torch.zeros(1, 3, 32, 32))]
    [(1, 64, 32, 32), (1, 256, 8, 8), (1, 512, 4, 4), (1, 512, 4, 4)]
    """

    def __init__(self, depth: int, out_indices: Sequence[int] = (4,), init_cfg: Any = None) -> None:
        if depth not in LAYERS:
            known = ', '.join(map(str, LAYERS))
            raise InputError(f'CIFARVGG: depth={depth!r} is none of {known}')
        shapes = zip(WIDTHS, WIDTHS[1:], LAYERS[depth])
        stages = [_stage(*shape, pool=index in (1, 2, 3)) for index, shape in enumerate(shapes)]
        super().__init__(nn.Identity(), stages, out_indices, init_cfg)


def _stage(in_channels: int, out_channels: int, layers: int, pool: bool) -> nn.Sequential:
    inputs = [in_channels] + [out_channels] * (layers - 1)
    convs = [conv_bn_relu(channels, out_channels, bias=True) for channels in inputs]
    return nn.Sequential(*([nn.MaxPool2d(2)] if pool else []), *convs)
