"""Data samples of a batch, as a model's heads read them."""

from __future__ import annotations

from typing import Any

from mmengine.structures import BaseDataElement


def own_samples(samples: Any) -> Any:
    """Samples that can be rewritten without the ones given; their tensors are the same.

    Some heads rewrite the labels that they are given (RTMDet-Ins the masks), so a second head needs its own.

    >>> sample = BaseDataElement(label=1)
    >>> (copy,) = own_samples([sample])
    >>> copy.label = 2
    >>> sample.label
    1
    """
    if not isinstance(samples, (list, tuple)):
        return samples
    return [_own(s) if isinstance(s, BaseDataElement) else s for s in samples]


def _own(element: BaseDataElement) -> BaseDataElement:
    copy = element.new()
    for name, value in element.items():
        if isinstance(value, BaseDataElement):
            setattr(copy, name, _own(value))
    return copy
