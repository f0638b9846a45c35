"""Wide residual networks (BMVC 2016) for images of 32x32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..registry import MODELS
from .staged import StagedBackbone, blocks_per_stage, checked_width

STRIDES = (1, 2, 2)
"""Of the first block of each stage."""


@MODELS.register_module()
class WideResNet(StagedBackbone):
    """WRN-d-k: ``depth = 6n + 4`` layers, pre-activation blocks, ``width`` times the channels.

    The last norm and ReLU belong to the last stage, so what it gives is activated; the other stages
    give bare residual sums. Normalised, these pass at ``stages.1.0.norm1`` and ``stages.2.0.norm1``.

    >>> import torch
    >>> net = WideResNet(16, 2, out_indices=(0, 1, 2))
    >>> [tuple(output.shape) for output in net(torch.zeros(1, 3, 32, 32))]
    [(1, 32, 32, 32), (1, 64, 16, 16), (1, 128, 8, 8)]
    """

    def __init__(
        self,
        depth: int,
        width: int,
        out_indices: Sequence[int] = (2,),
        dropout: float = 0.0,
        init_cfg: Any = None,
    ) -> None:
        blocks = blocks_per_stage('WideResNet', depth, base=4)
        factor = checked_width('WideResNet', width)
        widths = [16, *(int(channels * factor) for channels in (16, 32, 64))]
        shapes = zip(widths, widths[1:], STRIDES)
        stages = [_stage(*shape, blocks=blocks, dropout=dropout) for shape in shapes]
        stages[-1].extend([nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True)])
        stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        super().__init__(stem, stages, out_indices, init_cfg)


class PreActBlock(nn.Module):
    """Norm and ReLU before each of two convolutions; nothing after the sum.

    A shortcut that must change the shape starts from the activated input, any other from the input.

    >>> import torch
    >>> PreActBlock(8, 16, stride=2)(torch.zeros(1, 8, 4, 4)).shape
    torch.Size([1, 16, 2, 2])
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.same = in_channels == out_channels and stride == 1
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        if not self.same:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The residual sum, not activated."""
        active = self.relu(self.norm1(x))
        inner = self.relu(self.norm2(self.conv1(active)))
        residual = self.conv2(self.dropout(inner))
        return residual + (x if self.same else self.shortcut(active))


def _stage(
    in_channels: int, out_channels: int, stride: int, blocks: int, dropout: float
) -> nn.Sequential:
    first = PreActBlock(in_channels, out_channels, stride, dropout)
    rest = (PreActBlock(out_channels, out_channels, 1, dropout) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
