"""ResNets for images of 32x32: deep residual learning for image recognition (CVPR 2016), section 4.2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import InputError
from ..registry import MODELS
from .staged import StagedBackbone, blocks_per_stage, conv_bn, conv_bn_relu

STRIDES = (1, 2, 2)
"""Of the first block of each stage."""


@MODELS.register_module()
class CIFARResNet(StagedBackbone):
    """The ResNet of ``6n + 2`` layers: a 3x3 stem and three stages of ``n`` basic blocks.

    ``widths`` are the channels of the stem and the stages; ``(32, 64, 128, 256)`` makes the ``x4``
    nets of the distillation literature (resnet8x4, resnet32x4).

    Difference from the paper: where the shape changes, the shortcut is a 1x1 convolution with a
    batch norm, as in the distillation literature, and not a zero-padded copy.

    >>> import torch
    >>> net = CIFARResNet(8, widths=(32, 64, 128, 256), out_indices=(0, 1, 2))
    >>> [tuple(output.shape) for output in net(torch.zeros(1, 3, 32, 32))]
    [(1, 64, 32, 32), (1, 128, 16, 16), (1, 256, 8, 8)]
    """

    def __init__(
        self,
        depth: int,
        widths: Sequence[int] = (16, 16, 32, 64),
        out_indices: Sequence[int] = (2,),
        init_cfg: Any = None,
    ) -> None:
        blocks = blocks_per_stage('CIFARResNet', depth, base=2)
        if len(widths) != 4:
            raise InputError(
                f'CIFARResNet: widths={widths!r} are not the channels of the stem and three stages, '
                'such as (16, 16, 32, 64)'
            )
        stages = [_stage(*shape, blocks) for shape in zip(widths, widths[1:], STRIDES)]
        super().__init__(conv_bn_relu(3, widths[0]), stages, out_indices, init_cfg)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, added before the last ReLU.

    >>> import torch
    >>> BasicBlock(8, 16, stride=2)(torch.zeros(1, 8, 4, 4)).shape
    torch.Size([1, 16, 2, 2])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        same = in_channels == out_channels and stride == 1
        self.conv1 = conv_bn_relu(in_channels, out_channels, stride=stride)
        self.conv2 = conv_bn(out_channels, out_channels)
        self.shortcut = nn.Identity() if same else conv_bn(in_channels, out_channels, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output after its ReLU."""
        return self.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


def _stage(in_channels: int, out_channels: int, stride: int, blocks: int) -> nn.Sequential:
    rest = (BasicBlock(out_channels, out_channels) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(in_channels, out_channels, stride), *rest)
