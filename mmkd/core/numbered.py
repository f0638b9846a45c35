"""Methods that remember something of every training image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .method import Method
from .options import Count


class NumberedMethod(Method):
    """A method that remembers something of every training image, by its number in the training data.

    Args:
        images: how many training images there are; by default as many as the training data has.
        **options: see :class:`Method`.
    """

    def __init__(self, images: Count | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.images = images

    def learn_data(self, dataset: Any) -> None:
        """Remember as many images as there are, unless ``images`` says how many."""
        if self.images is not None:
            return
        if type(dataset).__name__ == 'ConcatDataset':
            raise InputError(
                f'{self._label}: the training data is a ConcatDataset, whose parts number their images anew, '
                'and each image needs a memory of its own; make one data set of them'
            )
        self.images = len(dataset)

    def numbers(self, samples: Any) -> Tensor:
        """The number of each image in the training data: [B], of the host."""
        if self.images is None:
            raise InputError(
                f'{self._label}: how many training images there are is not known; say so with images=..., or '
                "add custom_hooks=[dict(type='mmkd.DistillationHook')]"
            )
        found = [sample.metainfo.get('sample_idx') for sample in samples]
        if None in found:
            raise InputError(
                f'{self._label}: the samples do not say which images they are (sample_idx); pack it: '
                "dict(type='PackInputs', meta_keys=('sample_idx', ...))"
            )
        if max(found) >= self.images:
            raise InputError(
                f'{self._label}: images={self.images}: there is an image of number {max(found)}; needed: as '
                'many as the training data has, or leave it out'
            )
        return torch.tensor(found)

    def refuse_other_count(self, remembered: int) -> None:
        """Stop if what was remembered before a resume was of other data."""
        if remembered != self.images:
            raise InputError(
                f'{self._label}: images={self.images}: the checkpoint remembers {remembered} images; needed: '
                'the same training data, or a training that begins anew'
            )

    @property
    def _label(self) -> str:
        return type(self).__name__
