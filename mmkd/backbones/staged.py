"""What the backbones share: a stem, stages in a row, and the layers that these are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..errors import InputError

INIT_CFG = [
    dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
    dict(type='Constant', val=1, layer='_BatchNorm'),
]
"""He's initialisation; norms start as the identity."""


class StagedBackbone(BaseModule):
    """A stem and stages; gives the outputs of the stages that ``out_indices`` names, in its order.

    >>> import torch
    >>> net = StagedBackbone(nn.Identity(), [nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)], (1, 0))
    >>> [tuple(output.shape) for output in net(torch.zeros(1, 3, 2, 2))]
    [(1, 4, 2, 2), (1, 8, 2, 2)]
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Iterable[nn.Module],
        out_indices: Sequence[int],
        init_cfg: Any = None,
    ) -> None:
        super().__init__(INIT_CFG if init_cfg is None else init_cfg)
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.out_indices = self._checked(out_indices)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the chosen stages for a batch of images."""
        outputs = [self.stem(x)]
        for stage in self.stages:
            outputs.append(stage(outputs[-1]))
        return tuple(outputs[1 + index] for index in self.out_indices)

    def _checked(self, indices: Sequence[int]) -> tuple[int, ...]:
        last = len(self.stages) - 1
        listed = isinstance(indices, Sequence) and len(indices) > 0
        if not listed or any(index not in range(last + 1) for index in indices):
            raise InputError(
                f'{type(self).__name__}: out_indices={indices!r} is no list of stages 0 to {last}, '
                f'such as ({last},)'
            )
        return tuple(indices)


def blocks_per_stage(owner: str, depth: int, base: int) -> int:
    """Two-layer blocks in each of three stages of a net with ``6n + base`` layers.

    >>> blocks_per_stage('CIFARResNet', 20, base=2)
    3
    """
    if isinstance(depth, int) and depth > base and (depth - base) % 6 == 0:
        return (depth - base) // 6
    known = ', '.join(str(6 * n + base) for n in range(1, 5))
    raise InputError(f'{owner}: depth={depth!r} is not 6n + {base} for an n >= 1, such as {known}')


def checked_width(owner: str, width: float) -> float:
    """A multiplier of channels, if it is a positive number.

    >>> checked_width('MobileNetV1', 0.5)
    0.5
    """
    if isinstance(width, (int, float)) and width > 0:
        return width
    raise InputError(f'{owner}: width={width!r} is no number above 0, such as 1 or 2')


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> nn.Sequential:
    """A convolution that keeps the size but for its stride, and a batch norm.

    >>> import torch
    >>> conv_bn(3, 8, stride=2)(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 8, 4, 4])
    """
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        groups=groups,
        bias=bias,
    )
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def conv_bn_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> nn.Sequential:
    """The same with a ReLU behind it.

    >>> [type(layer).__name__ for layer in conv_bn_relu(3, 8)]
    ['Conv2d', 'BatchNorm2d', 'ReLU']
    """
    layers = conv_bn(in_channels, out_channels, kernel_size, stride, groups, bias)
    return layers.append(nn.ReLU(inplace=True))
