"""Scores of boxes, kept in the labels while a pipeline changes them, and read from them afterwards.

Steps that crop, filter or mix images drop boxes and their labels together and know of no scores. So a label
carries its score in bits that no class number needs.
"""

from __future__ import annotations

from typing import Any

from ..registry import DATASETS

BITS = 20
"""Of a label that are the class."""
UNIT = 1 << 30
"""So many steps a score has."""


def with_score(label: int, score: float) -> int:
    """A label that carries a score; that of a sure box is the label itself.

    >>> with_score(3, 1.0), with_score(3, 0.5) == 3 + (UNIT // 2 << BITS)
    (3, True)
    """
    return label + (round((1 - min(max(score, 0.0), 1.0)) * UNIT) << BITS)


def class_of(label: int) -> int:
    """The class of a label that may carry a score.

    >>> class_of(with_score(3, 0.25))
    3
    """
    return label & ((1 << BITS) - 1)


def unpack_scores(sample: Any) -> None:
    """Make plain labels and ``scores`` of the labels of a sample of mmdet, wherever these carry any."""
    for part in ('gt_instances', 'ignored_instances'):
        instances = getattr(sample, part, None)
        if instances is None or 'labels' not in instances or not len(instances.labels):
            continue
        carried = instances.labels >> BITS
        if carried.any():
            instances.scores = (1 - carried.double() / UNIT).float()
            instances.labels = instances.labels & ((1 << BITS) - 1)


@DATASETS.register_module(name='PseudoCoco')
def build_pseudo_coco(**options: Any) -> Any:
    """Build a data set of boxes with scores; see :class:`mmkd.datasets.pseudo_coco.PseudoCoco`."""
    from .pseudo_coco import PseudoCoco  # mmdet takes seconds to import

    return PseudoCoco(**options)
