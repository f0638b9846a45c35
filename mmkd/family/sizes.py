"""Which sizes of image a network takes: what its config's pipeline and the network itself say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

USUAL = (128, 224, 384)
"""Sizes that a dry run tries when nothing else is known; many networks take any."""
LARGEST = 384
"""A config's and a network's own sizes up to this are tried before the usual ones: dry runs are to be short."""


def pipeline_size(cfg: Mapping[str, Any]) -> int | None:
    """The shorter side of the images that a config's test pipeline makes, None if it does not say.

    >>> steps = [dict(type='ResizeEdge', scale=256), dict(type='CenterCrop', crop_size=224)]
    >>> pipeline_size(dict(test_dataloader=dict(dataset=dict(pipeline=steps))))
    224
    """
    for part in ('test', 'val', 'train'):
        node = cfg.get(f'{part}_dataloader') or {}
        while isinstance(node.get('dataset'), Mapping):
            node = node['dataset']
        sizes = [size for step in node.get('pipeline') or () if (size := _step_size(step))]
        if sizes:
            return sizes[-1]
    return None


def small_size(cfg: Mapping[str, Any]) -> int | None:
    """The same where it is small enough for a dry run, else None.

    >>> small_size(dict(test_dataloader=dict(dataset=dict(pipeline=[dict(scale=(1333, 800))]))))
    """
    size = pipeline_size(cfg)
    return size if size and size <= LARGEST else None


def _step_size(step: Any) -> int | None:
    """What a step of a pipeline makes of an image's shorter side."""
    return _shorter(step.get('crop_size', step.get('scale'))) if isinstance(step, Mapping) else None


def _shorter(size: Any) -> int | None:
    sides = [size] if isinstance(size, int) else size
    whole = isinstance(sides, (list, tuple)) and sides and all(type(side) is int for side in sides)
    return min(sides) if whole else None


def stated_sizes(model: nn.Module) -> list[int]:
    """Sizes that a network states: the ``img_size`` of its modules, the ``size`` of its data preprocessor.

    >>> net = nn.Identity()
    >>> net.img_size = (224, 224)
    >>> stated_sizes(net)
    [224]
    """
    stated = [getattr(module, 'img_size', None) for module in model.modules()]
    stated.append(getattr(getattr(model, 'data_preprocessor', None), 'size', None))
    return [size for value in stated if (size := _shorter(value))]


def sizes_to_try(model: nn.Module, first: Iterable[int | None] = ()) -> list[int]:
    """The sizes at which a dry run tries a network, in order.

    >>> sizes_to_try(nn.Identity(), [32, None])
    [32, 128, 224, 384]
    """
    given, stated = [size for size in first if size], stated_sizes(model)
    small = [size for size in stated if size <= LARGEST]
    return list(dict.fromkeys([*given, *small, *USUAL, *stated]))
