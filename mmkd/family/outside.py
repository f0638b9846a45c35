"""Networks of other packages as teachers: backbones that give maps, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel, ImgDataPreprocessor
from torch import Tensor, nn

from ..errors import InputError, reason_of

PACKAGES = {
    'timm': ('mmkd.TimmBackbone', 'timm', 'timm'),
    'hf': ('mmkd.HFBackbone', 'transformers', "'transformers>=4.53,<5'"),
}
"""What stands before ``::`` in a teacher's name: our class, the package, what pip installs."""
TRIAL = 96
"""About the height of the image on which a network is tried once it is built."""


def outside_config(name: str) -> dict[str, Any] | None:
    """The model config of a ``timm::`` or ``hf::`` name; None for any other name.

    >>> outside_config('timm::resnet18')
    {'type': 'mmkd.TimmBackbone', 'model': 'resnet18'}
    >>> outside_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    """
    prefix, _, model = name.partition('::')
    return dict(type=PACKAGES[prefix][0], model=model) if prefix in PACKAGES else None


def package(prefix: str) -> Any:
    """The package of a prefix, or one sentence that says how it is installed."""
    _, name, source = PACKAGES[prefix]
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f'teacher {prefix}::...: needs the package {name} ({error}); pip install {source}'
        ) from error


class Levels(nn.Module):
    """A network whose forward gives maps [B, C, H, W], shallow to deep; images are made to fit it.

    An image whose sides are no multiples of the network's patch is resized to the nearest ones; where
    the network takes one size only, to that.

    Args:
        net: the network.
        native: height and width for which the package made it.
        patch: side of a patch, None where there are none.
        indices: which of the network's levels are given; by default the deepest of each size.
    """

    def __init__(
        self,
        net: nn.Module,
        native: tuple[int, int],
        patch: int | None,
        indices: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.native, self.patch = net.eval(), native, patch
        self.indices: list[int] | None = None
        self.multiple, sizes = self._try_sizes()
        self.indices = _indices(indices, sizes)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The maps of the levels ``indices`` (of all while it is None)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The maps of a batch."""
        return tuple(self.maps(self.fitted(images)))

    def fitted(self, images: Tensor) -> Tensor:
        """A batch in a size that the network takes; the same tensor where it is one already."""
        size = self.native
        if self.multiple is not None:
            height, width = (_nearest(side, self.multiple) for side in images.shape[-2:])
            size = (height, width)
        if images.shape[-2:] == size:
            return images
        return F.interpolate(images, size, mode='bilinear', align_corners=False, antialias=True)

    @torch.no_grad()
    def _try_sizes(self) -> tuple[int | None, list[tuple[int, ...]]]:
        """Of what an image's sides must be multiples (None: one size only), and the sizes of all maps."""
        for multiple in (self.patch or 1, 32):
            # wider than what it was made for, where some tables of positions end
            size = [
                _nearest(side, multiple) + multiple for side in (TRIAL, 5 * self.native[1] // 4)
            ]
            try:
                return multiple, [m.shape[-2:] for m in self.maps(torch.zeros(1, 3, *size))]
            except Exception:  # packages refuse sizes in ways of their own
                continue
        try:
            maps = self.maps(torch.zeros(1, 3, *self.native))
        except Exception as error:
            name = type(self.net).__name__
            raise InputError(
                f'teacher {name}: gives no maps of an image of {self.native[0]}x{self.native[1]} px '
                f'({reason_of(error)})'
            ) from error
        return None, [m.shape[-2:] for m in maps]


class OutsideBackbone(BaseModel):
    """A network of another package, frozen, that answers taps: ``backbone`` gives its maps.

    Args:
        levels: the network.
        mean: what is subtracted from pixels of 0 to 255, in the order red, green, blue.
        std: what they are divided by.
    """

    label = ''
    """How the summary calls it."""
    optional: tuple[str, ...] = ()
    """Parts that no map depends on, or that begin as plain standardisation: a file may lack them."""

    def __init__(self, levels: Levels, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(ImgDataPreprocessor(mean=list(mean), std=list(std), bgr_to_rgb=True))
        self.backbone = levels

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The maps of a batch that is normalised already."""
        return self.backbone(inputs)

    def forward(
        self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor'
    ) -> tuple[Tensor, ...]:
        """The maps; it has neither a loss nor predictions."""
        return self.extract_feat(inputs)

    def load_own(self) -> list[str]:
        """Load the weights that the package has for this network; the names of those that it lacks."""
        raise NotImplementedError

    def translated(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a file of the package, under the names of this model, heads left out."""
        raise NotImplementedError

    def _named(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those weights that the network has, under the names of this model."""
        own = self.backbone.net.state_dict()
        return {f'backbone.net.{name}': value for name, value in weights.items() if name in own}


def _nearest(side: int, multiple: int) -> int:
    return max(round(side / multiple), 1) * multiple


def _indices(given: Sequence[int] | None, sizes: list[tuple[int, ...]]) -> list[int]:
    """Which levels are given: those that are asked for, else the deepest of each size."""
    if given is None:
        return sorted({size: index for index, size in enumerate(sizes)}.values())
    wrong = [i for i in given if not 0 <= i < len(sizes)]
    if wrong or not given:
        raise InputError(
            f'teacher: out_indices={list(given)}; needed: numbers from 0 to {len(sizes) - 1}, one for each '
            'level that is to be read'
        )
    return list(given)


def square(size: Any) -> tuple[int, int]:
    """Height and width of a size that a package gives as a number or a pair.

    >>> square(224), square((3, 224, 192))
    ((224, 224), (224, 192))
    """
    if isinstance(size, (list, tuple)):
        return int(size[-2 if len(size) > 1 else -1]), int(size[-1])
    return int(size), int(size)


def grid_of(tokens: int, image: Sequence[int], patch: int) -> tuple[int, int, int]:
    """Height, width and first token of the grid in a sequence: patches of an image, after other tokens.

    Deeper levels of a pyramid have patches of twice the side each.

    >>> grid_of(197, (224, 224), 16), grid_of(49 + 5, (112, 112), 16), grid_of(12, (48, 64), 8)
    ((14, 14, 1), (7, 7, 5), (3, 4, 0))
    """
    for stride in (patch * 2**k for k in range(6)):
        height, width = (side // stride for side in image)
        extra = tokens - height * width
        if height and width and 0 <= extra <= (16 if stride == patch else 0):
            return height, width, extra
    raise InputError(
        f'teacher: {tokens} tokens of an image of {image[0]}x{image[1]} px make no grid of patches of '
        f'{patch} px'
    )


def folded(tokens: Tensor, image: Sequence[int], patch: int) -> Tensor:
    """Tokens [B, N, C] as a map [B, C, H, W]; class and register tokens before the grid are left out.

    >>> folded(torch.zeros(2, 197, 8), (224, 224), 16).shape
    torch.Size([2, 8, 14, 14])
    """
    height, width, first = grid_of(tokens.shape[1], image, patch)
    return tokens[:, first:].transpose(1, 2).unflatten(2, (height, width))


def scaled(values: Sequence[float] | float, factor: float) -> list[float]:
    """A package's mean or deviation for pixels of 0 to 255.

    >>> scaled(0.5, 255.0)
    [127.5, 127.5, 127.5]
    """
    many = [values] * 3 if isinstance(values, (int, float)) else list(values)
    scale = factor if math.isfinite(factor) and factor else 255.0
    return [scale * float(value) for value in many]
