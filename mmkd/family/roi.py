"""Places in a two-stage detector's RoI head, and the boxes that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .taps import Tap

Rois = Mapping[int | None, Tensor]
"""Boxes for a RoI head, by cascade stage (None where the head has one stage)."""


def roi_stage(tap: Tap) -> int | None:
    """The cascade stage that a tap under ``roi_head`` names, None where it names none.

    >>> roi_stage(Tap('roi_head.bbox_head.1.fc_cls')), roi_stage(Tap('roi_head.bbox_head'))
    (1, None)
    """
    parts = tap.at.split('.')
    return int(parts[2]) if len(parts) > 2 and parts[2].isdigit() else None


def in_roi_head(tap: Tap) -> bool:
    """Whether a tap lies in a two-stage detector's second stage."""
    return tap.at.startswith('roi_head.')


def box_tap(tap: Tap) -> Tap:
    """Where the boxes pass that a RoI head's logits, or features, are of.

    >>> box_tap(Tap('roi_head.bbox_head.1', item=0)).place
    ('roi_head.bbox_roi_extractor.1', 'input')
    """
    stage = roi_stage(tap)
    at = 'roi_head.bbox_roi_extractor' + ('' if stage is None else f'.{stage}')
    return Tap(at, source='input')


CONTEXTS = {'semantic_feat': 'semantic_head', 'glbctx_feat': 'glbctx_head'}
"""What some RoI heads (HTC, SCNet) add to the features of boxes, and the part that makes it of the maps."""


def drive(roi_head: Any, maps: Any, rois: Rois) -> None:
    """Let a RoI head score boxes of ours, stage by stage, as its own forward does."""
    parts = {name: getattr(roi_head, part, None) for name, part in CONTEXTS.items()}
    contexts = {name: part(maps)[1] for name, part in parts.items() if part is not None}
    for stage, boxes in rois.items():
        prefix = () if stage is None else (stage,)
        roi_head._bbox_forward(*prefix, maps, boxes, **contexts)
