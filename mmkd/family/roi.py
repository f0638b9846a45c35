"""Places in a two-stage detector's RoI head, and the boxes that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .taps import Tap

Part = tuple[str, int | None]
"""``bbox`` or ``mask``, and the cascade stage, None where the head has one stage."""
Rois = Mapping[Part, Tensor]
"""Boxes for the parts of a RoI head."""


def roi_part(tap: Tap) -> Part:
    """The part of a RoI head that a tap under ``roi_head`` lies in.

    >>> roi_part(Tap('roi_head.bbox_head.1.fc_cls')), roi_part(Tap('roi_head.mask_head'))
    (('bbox', 1), ('mask', None))
    """
    parts = tap.at.split('.')
    stage = int(parts[2]) if len(parts) > 2 and parts[2].isdigit() else None
    return 'mask' if parts[1].startswith('mask') else 'bbox', stage


def in_roi_head(tap: Tap) -> bool:
    """Whether a tap lies in a two-stage detector's second stage."""
    return tap.at.startswith('roi_head.')


def box_tap(tap: Tap) -> Tap:
    """Where the boxes pass that a RoI head's logits, masks or features are of.

    >>> box_tap(Tap('roi_head.bbox_head.1', item=0)).place
    ('roi_head.bbox_roi_extractor.1', 'input')
    """
    kind, stage = roi_part(tap)
    at = f'roi_head.{kind}_roi_extractor' + ('' if stage is None else f'.{stage}')
    return Tap(at, source='input')


CONTEXTS = {'semantic_feat': 'semantic_head', 'glbctx_feat': 'glbctx_head'}
"""What some RoI heads (HTC, SCNet) add to the features of boxes, and the part that makes it of the maps."""


def drive(roi_head: Any, maps: Any, rois: Rois) -> None:
    """Let a RoI head look at boxes of ours, part by part, as its own forward does."""
    parts = {name: getattr(roi_head, part, None) for name, part in CONTEXTS.items()}
    contexts = {name: part(maps)[1] for name, part in parts.items() if part is not None}
    for (part, stage), boxes in rois.items():
        prefix = () if stage is None else (stage,)
        getattr(roi_head, f'_{part}_forward')(*prefix, maps, boxes, **contexts)
