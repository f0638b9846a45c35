"""Which objects the queries of a transformer are matched with, by the matching of its own loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..collectives import uploaded
from ..losses.queries import corners
from ..losses.region import pairwise_iou
from .boxes import annotated_boxes


@torch.no_grad()
def matches(head: Any, classes: Tensor, boxes: Tensor, samples: Any) -> tuple[Tensor, Tensor]:
    """Whether each query is matched in any layer [B, Q], and how its boxes overlap that object [L, B, Q].

    A query that layers match with several objects goes with the one most of them choose. The overlap of a
    query without an object is 0.

    Args:
        head: a head with an ``assigner``.
        classes: logits of all layers [L, B, Q, C].
        boxes: of all layers [L, B, Q, 4]; centre, width, height, as shares of the image.
        samples: the labels.
    """
    found = torch.zeros(classes.shape[1:3], dtype=torch.bool, device=classes.device)
    overlaps = boxes.new_zeros(boxes.shape[:3])
    for image, (sample, objects) in enumerate(zip(samples, annotated_boxes(samples))):
        if not len(objects):
            continue
        height, width = sample.metainfo['img_shape'][:2]
        sizes = uploaded(torch.tensor([width, height, width, height]), boxes.device)
        own = corners(boxes[:, image]) * sizes
        votes = _votes(head, classes[:, image], own, sample)
        found[image] = votes.any(1)
        chosen = votes.argmax(1)[:, None]
        for layer, places in enumerate(own):
            overlap = pairwise_iou(places, objects.to(places)).gather(1, chosen)[:, 0]
            overlaps[layer, image] = overlap * found[image]
    return found, overlaps


def _votes(head: Any, classes: Tensor, boxes: Tensor, sample: Any) -> Tensor:
    """How many layers match each query with each object: [Q, M]."""
    from mmengine.structures import InstanceData

    layers = []
    for scores, places in zip(classes, boxes):
        given = InstanceData(scores=scores, bboxes=places)
        assigned = head.assigner.assign(
            pred_instances=given, gt_instances=sample.gt_instances, img_meta=sample.metainfo
        )
        # 0: no object; -1 does not occur but is none either
        layers.append(F.one_hot(assigned.gt_inds.clamp_min(0), len(sample.gt_instances) + 1))
    return torch.stack(layers).sum(0)[:, 1:]
