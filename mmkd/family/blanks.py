"""Blank inputs: what a model is dry-run on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .roi import Rois, in_roi_head, roi_part
from .stages import task_of
from .taps import Tap


def blank_batch(model: nn.Module, size: int) -> tuple[Tensor, Any]:
    """One black image of a size, as a model's data preprocessor would hand it over."""
    parameter = next(model.parameters(), torch.zeros(()))
    shape = (1, channels_of_images(model), size, size)
    inputs = torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)
    return inputs, _blank_samples(inputs) if task_of(model) == 'detection' else None


def channels_of_images(model: nn.Module) -> int:
    """How many channels images have: as many as the data preprocessor has means, 3 if it has none.

    >>> channels_of_images(nn.Conv2d(12, 8, 1))
    3
    """
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    return 3 if mean is None else mean.numel()


def _blank_samples(inputs: Tensor) -> list[Any]:
    """What belongs to the image, with one object: the forward of some (CondInst) assigns objects to masks."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    size = inputs.shape[-1]
    names = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    meta = dict.fromkeys(names, (size, size)) | {'scale_factor': (1, 1)}
    sample = DetDataSample(metainfo=meta)
    sample.gt_instances = InstanceData(
        bboxes=inputs.new_tensor([[size / 4, size / 4, size / 2, size / 2]]),
        labels=inputs.new_zeros(1, dtype=torch.long),
        masks=BitmapMasks(np.ones((1, size, size), np.uint8), size, size),
    )
    return [sample]


def blank_rois(taps: Iterable[Tap], inputs: Tensor) -> Rois:
    """Two boxes for each RoI head's stage that some taps lie in."""
    size = inputs.shape[-1]
    boxes = inputs.new_tensor([[0, 0, 0, size / 2, size / 2], [0, size / 4, size / 4, size, size]])
    return {roi_part(tap): boxes for tap in taps if in_roi_head(tap)}
