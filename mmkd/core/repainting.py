"""From the student's normalised batch to the teacher's, without going back to the data loader."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError


@dataclass(frozen=True)
class Pixels:
    """What a data preprocessor makes of pixels: the last channel order, mean, deviation, padding."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flipped: bool
    pad_value: float

    @classmethod
    def of(cls, preprocessor: Any, owner: str) -> Pixels:
        """Read a data preprocessor of mmengine, mmdet, mmpretrain or mmseg.

        One that wraps another (semi-supervised branches) is looked through. One that cannot be
        understood is refused, because guessing would feed a teacher wrong numbers.
        """
        inner = getattr(preprocessor, 'data_preprocessor', None)
        if isinstance(inner, nn.Module):
            return cls.of(inner, owner)
        if not hasattr(preprocessor, '_enable_normalize'):
            raise InputError(
                f'{owner}: the normalisation of its data_preprocessor '
                f'{type(preprocessor).__name__} is not known; give the teacher the batch as it is '
                "with teacher=dict(..., inputs='student') if both take the same input"
            )
        normalised = preprocessor._enable_normalize
        flipped = getattr(preprocessor, '_channel_conversion', None)
        return cls(
            tuple(preprocessor.mean.flatten().tolist()) if normalised else (0.0,),
            tuple(preprocessor.std.flatten().tolist()) if normalised else (1.0,),
            bool(getattr(preprocessor, 'to_rgb', False) if flipped is None else flipped),
            float(getattr(preprocessor, 'pad_value', 0)),
        )

    def in_rgb_of(self, source: Pixels) -> Pixels:
        """The same for a network that takes red first, whatever order the source's files are read in.

        The order of what the source makes is told by its mean: of photographs red is the largest, blue the
        smallest. Where all are alike, files are taken to be read blue first, as the family reads them.

        >>> cifar = Pixels((125.3, 123.0, 113.9), (63.0, 62.1, 66.7), flipped=False, pad_value=0)
        >>> caffe = Pixels((103.5, 116.3, 123.7), (1.0, 1.0, 1.0), flipped=False, pad_value=0)
        >>> [cifar.in_rgb_of(other).flipped for other in (cifar, caffe)]
        [False, True]
        """
        first, last = source.mean[0], source.mean[-1]
        rgb = source.flipped if first == last else first > last
        return replace(self, flipped=source.flipped == rgb)


class Repaint(nn.Module):
    """Turns a batch in one set of :class:`Pixels` into another; padding becomes the target's.

    >>> rgb = Pixels((10.0, 20.0, 30.0), (2.0, 2.0, 2.0), flipped=True, pad_value=0)
    >>> raw = Pixels((0.0,), (1.0,), flipped=False, pad_value=0)
    >>> Repaint(rgb, raw)(torch.zeros(1, 3, 1, 1)).flatten().tolist()
    [30.0, 20.0, 10.0]
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, source: Pixels, target: Pixels) -> None:
        super().__init__()
        self.flip = source.flipped != target.flipped
        self.pad_value = target.pad_value
        mean, std = (_column(values) for values in (source.mean, source.std))
        if self.flip:
            mean, std = mean.flip(0), std.flip(0)
        scale = std / _column(target.std)
        shift = (mean - _column(target.mean)) / _column(target.std)
        self.same = not self.flip and bool((scale == 1).all() and (shift == 0).all())
        self.same_padding = self.same and source.pad_value == target.pad_value
        self.register_buffer('scale', scale.float(), persistent=False)
        self.register_buffer('shift', shift.float(), persistent=False)

    def forward(self, inputs: Tensor, samples: Any = None) -> Tensor:
        """Repaint a batch; the samples tell how much of each image is padding."""
        if self.same_padding:
            return inputs
        images = inputs.flip(1) if self.flip else inputs
        images = torch.addcmul(self.shift, images.float(), self.scale)
        for image, sample in zip(images, samples or []):
            height, width = _content_size(sample, images.shape[-2:])
            image[:, height:] = self.pad_value
            image[:, :, width:] = self.pad_value
        return images


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)


def _content_size(sample: Any, canvas: torch.Size) -> tuple[int, int]:
    """Height and width of the image proper, without the padding at the right and the bottom."""
    height, width = getattr(sample, 'img_shape', canvas)[:2]
    return min(height, canvas[0]), min(width, canvas[1])
