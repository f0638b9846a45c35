"""MobileNets: efficient convolutional neural networks for mobile vision applications (2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..registry import MODELS
from .staged import StagedBackbone, checked_width, conv_bn_relu

STAGES = ((128, 2), (256, 2), (512, 6), (1024, 2))
"""Channels and separable layers of each stage; the first layer halves the size."""


@MODELS.register_module()
class MobileNetV1(StagedBackbone):
    """The original net of depthwise separable convolutions, with stages of stride 4, 8, 16 and 32.

    The stem is the first convolution and the one separable layer at stride 2. ``width`` multiplies
    all channels, which stay at 8 or more.

    >>> import torch
    >>> net = MobileNetV1(width=0.25, out_indices=(0, 1, 2, 3))
    >>> [tuple(output.shape) for output in net(torch.zeros(1, 3, 64, 64))]
    [(1, 32, 16, 16), (1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2)]
    """

    def __init__(
        self, width: float = 1.0, out_indices: Sequence[int] = (3,), init_cfg: Any = None
    ) -> None:
        factor = checked_width('MobileNetV1', width)
        first, *widths = (max(8, int(c * factor)) for c in (32, 64, *(c for c, _ in STAGES)))
        stem = nn.Sequential(conv_bn_relu(3, first, stride=2), separable(first, widths[0]))
        shapes = zip(widths, widths[1:], (layers for _, layers in STAGES))
        super().__init__(stem, [_stage(*shape) for shape in shapes], out_indices, init_cfg)


def separable(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution of each channel by itself, then a 1x1 that mixes channels.

    >>> import torch
    >>> separable(8, 16, stride=2)(torch.zeros(1, 8, 4, 4)).shape
    torch.Size([1, 16, 2, 2])
    """
    depthwise = conv_bn_relu(in_channels, in_channels, 3, stride, groups=in_channels)
    return nn.Sequential(depthwise, conv_bn_relu(in_channels, out_channels, 1))


def _stage(in_channels: int, out_channels: int, layers: int) -> nn.Sequential:
    rest = (separable(out_channels, out_channels) for _ in range(layers - 1))
    return nn.Sequential(separable(in_channels, out_channels, stride=2), *rest)
