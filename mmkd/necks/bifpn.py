"""The bidirectional pyramid that FRSKD's self-teacher refines features with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn

from ..errors import InputError
from ..registry import MODELS

Grid = tuple[int, int]
EPSILON = 1e-6


@MODELS.register_module()
class BiFPN(nn.Module):
    """Features of several levels, refined top-down and then bottom-up, ``repeat`` times.

    With two sets of lateral 1x1 blocks L and M, ``r`` the ReLU and learned fusion weights ``w``::

        P_top = L_top;  P_i = up_i(w0 r L_i + w1 us_i(r P_i+1))
        T_0 = P_0;      T_i = down_i(w0 r M_i + w1 r P_i + w2 ds_i(r T_i-1))
        T_top = down_top(w0 r M_top + w1 ds_top(r T_top-1))

    and the outputs are ``r T_i``. Layers after the first take ``L_i`` as it comes in. In the scaled
    form (``channels=None``) level i has ``width * c_i`` channels, and a 1x1 block follows every
    change of level; in the fixed form all levels have ``channels``, and a change of level is a
    resize alone. Maps may have any sizes that do not grow from level to level.

    Args:
        in_channels: the channels of every level, shallow to deep.
        channels: those of all levels in the fixed form; None for the scaled form.
        width: their multiple in the scaled form.
        depth: depthwise-separable convolutions in ``up`` and ``down``.
        repeat: how many of these layers are stacked.

    >>> import torch
    >>> maps = [torch.zeros(2, 8, 7, 5), torch.zeros(2, 16, 4, 3)]
    >>> [tuple(t.shape) for t in BiFPN([8, 16])(maps)]
    [(2, 16, 7, 5), (2, 32, 4, 3)]
    >>> [tuple(t.shape) for t in BiFPN([8, 16], channels=12, repeat=2)(maps)]
    [(2, 12, 7, 5), (2, 12, 4, 3)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int | None = None,
        width: float = 2,
        depth: int = 2,
        repeat: int = 1,
    ) -> None:
        super().__init__()
        _check(in_channels, dict(channels=channels, depth=depth, repeat=repeat), width)
        self.out_channels = (
            [max(1, round(width * c)) for c in in_channels]
            if channels is None
            else [channels] * len(in_channels)
        )
        inputs = [list(in_channels)] + [self.out_channels] * (repeat - 1)
        self.layers = nn.ModuleList(
            BiFPNLayer(ins, self.out_channels, depth, channels is None, first=i == 0)
            for i, ins in enumerate(inputs)
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The refined maps, activated, of the sizes of the given ones."""
        refined = [_laid_out(m) for m in maps]
        for layer in self.layers:
            refined = layer(refined)
        return tuple(refined)


class BiFPNLayer(nn.Module):
    """One pass down and one up; see :class:`BiFPN`.

    >>> import torch
    >>> layer = BiFPNLayer([4, 8], [6, 6], depth=1, project=False)
    >>> [tuple(t.shape) for t in layer([torch.zeros(2, 4, 4, 4), torch.zeros(2, 8, 2, 2)])]
    [(2, 6, 4, 4), (2, 6, 2, 2)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: Sequence[int],
        depth: int,
        project: bool,
        first: bool = True,
    ) -> None:
        super().__init__()
        pairs, last = list(zip(in_channels, channels)), len(channels) - 1
        steps = list(zip(channels, channels[1:]))
        self.laterals = nn.ModuleList(pointwise(c, d) if first else nn.Identity() for c, d in pairs)
        self.second_laterals = nn.ModuleList(pointwise(c, d) for c, d in pairs[1:])
        self.raisers = nn.ModuleList(_between(b, a, project) for a, b in steps)
        self.lowerers = nn.ModuleList(_between(a, b, project) for a, b in steps)
        self.ups = nn.ModuleList(separable(d, depth) for d in channels[:-1])
        self.downs = nn.ModuleList(separable(d, depth) for d in channels[1:])
        self.up_fusions = nn.ModuleList(Fusion(2) for _ in range(last))
        self.down_fusions = nn.ModuleList(Fusion(3 if i < last else 2) for i in range(1, last + 1))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The refined maps, activated."""
        active = [F.relu(m) for m in maps]
        return self._rise(active, self._descend(active))

    def _descend(self, active: list[Tensor]) -> list[Tensor]:
        """``r P_i``, shallow to deep."""
        laterals = [lateral(m) for lateral, m in zip(self.laterals, active)]
        path = [laterals[-1]]
        for i in range(len(active) - 2, -1, -1):
            deeper = self.raisers[i](enlarge(path[0], active[i].shape[-2:]))
            path.insert(0, F.relu(self.ups[i](self.up_fusions[i](laterals[i], deeper))))
        return path

    def _rise(self, active: list[Tensor], path: list[Tensor]) -> list[Tensor]:
        """``r T_i``, shallow to deep."""
        refined, last = [path[0]], len(active) - 1
        for i in range(1, last + 1):
            own = self.second_laterals[i - 1](active[i])
            shallower = self.lowerers[i - 1](shrink(refined[-1], active[i].shape[-2:]))
            parts = (own, path[i], shallower) if i < last else (own, shallower)
            refined.append(F.relu(self.downs[i - 1](self.down_fusions[i - 1](*parts))))
        return refined


class Fusion(nn.Module):
    """``sum relu(w_k) m_k / (sum relu(w) + 1e-6)`` with learned weights that start at 1.

    >>> import torch
    >>> Fusion(2)(torch.ones(1), 3 * torch.ones(1)).round(decimals=4)
    tensor([2.], grad_fn=<RoundBackward1>)
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(count))

    def forward(self, *maps: Tensor) -> Tensor:
        """The weighted mean of as many maps as there are weights."""
        shares = F.relu(self.weights)
        shares = shares / (shares.sum() + EPSILON)
        total = shares[0] * maps[0]
        for share, m in zip(shares[1:], maps[1:]):
            total = torch.addcmul(total, m, share)
        return total


def pointwise(in_channels: int, channels: int) -> nn.Sequential:
    """A 1x1 convolution without bias, a norm and a ReLU.

    >>> [type(layer).__name__ for layer in pointwise(4, 8)]
    ['Conv2d', 'BatchNorm2d', 'ReLU']
    """
    conv = nn.Conv2d(in_channels, channels, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def separable(channels: int, depth: int) -> nn.Sequential:
    """``depth`` times a depthwise 3x3 and a 1x1 convolution with a norm; ReLU between, none at the end.

    >>> [type(layer).__name__ for layer in separable(4, 1)]
    ['Conv2d', 'Conv2d', 'BatchNorm2d']
    """
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers[:-1])


def enlarge(feature: Tensor, size: Grid | Size) -> Tensor:
    """Nearest resize; the same tensor where the size is right already.

    >>> enlarge(torch.tensor([[[[1.0, 2.0]]]]), (1, 3))
    tensor([[[[1., 1., 2.]]]])
    """
    if feature.shape[-2:] == tuple(size):
        return feature
    return F.interpolate(feature, tuple(size), mode='nearest')


def shrink(feature: Tensor, size: Grid | Size) -> Tensor:
    """3x3 max-pools of stride 2 with SAME padding towards a size; adaptive where these miss it.

    >>> shrink(torch.arange(6.0).view(1, 1, 1, 6), (1, 3))
    tensor([[[[2., 4., 5.]]]])
    >>> shrink(torch.zeros(1, 1, 13, 8), (7, 4)).shape, shrink(torch.zeros(1, 1, 9, 9), (4, 4)).shape
    (torch.Size([1, 1, 7, 4]), torch.Size([1, 1, 4, 4]))
    """
    while feature.shape[-2:] != tuple(size):
        strides = [_stride(n, wanted) for n, wanted in zip(feature.shape[-2:], size)]
        if max(strides) == 1:
            return F.adaptive_max_pool2d(feature, tuple(size))
        feature = _same_pool(feature, strides)
    return feature


def _stride(now: int, wanted: int) -> int:
    """2 as long as half of a length comes nearer to the wanted one."""
    return 2 if now / wanted > math.sqrt(2) else 1


def _same_pool(feature: Tensor, strides: list[int]) -> Tensor:
    """A 3x3 max-pool; SAME padding of an even length with stride 2 is one cell, behind."""
    lengths = feature.shape[-2:]
    before = [int(stride == 1 or n % 2) for n, stride in zip(lengths, strides)]
    # a last window that is cut short is the same as one cell of padding behind
    return F.max_pool2d(feature, 3, strides, before, ceil_mode=True)


def _laid_out(feature: Tensor) -> Tensor:
    """Channels last on CPUs, where depthwise convolutions are several times faster with it."""
    if feature.device.type != 'cpu':
        return feature
    return feature.contiguous(memory_format=torch.channels_last)


def _between(in_channels: int, channels: int, project: bool) -> nn.Module:
    return pointwise(in_channels, channels) if project else nn.Identity()


def _check(in_channels: Sequence[int], counts: dict[str, int | None], width: float) -> None:
    if len(in_channels) < 2:
        raise InputError(
            f'BiFPN: in_channels={list(in_channels)}; needed: two levels or more, shallow to deep'
        )
    for name, value in counts.items():
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not whole and (name, value) != ('channels', None):
            raise InputError(f'BiFPN: {name}={value!r}; needed: a whole number >= 1')
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width < math.inf:
        raise InputError(f'BiFPN: width={width!r}; needed: a number above 0, such as 2')
