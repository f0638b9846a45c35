"""The embedding of a classifier: one vector for each image."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .stages import backbone_of
from .taps import Features, Tap, parse_taps


def embedding_taps(model: nn.Module, given: Any = None) -> list[Tap]:
    """The taps that are given, else what the pooling gives, else the deepest of the backbone's outputs.

    >>> embedding_taps(nn.ModuleDict(dict(backbone=nn.ReLU(), neck=nn.AdaptiveAvgPool2d(1))))[0].at
    'neck'
    """
    if given is not None:
        return parse_taps(given)
    return [
        Tap('neck' if isinstance(getattr(model, 'neck', None), nn.Module) else backbone_of(model))
    ]


def embedding_of(features: Features, taps: list[Tap]) -> Tensor:
    """The last that passed at some taps, in single precision; of a map the mean over positions: [B, C]."""
    found = [t for tap in taps for t in features[tap]][-1].float()
    return found.mean((2, 3)) if found.dim() == 4 else found
