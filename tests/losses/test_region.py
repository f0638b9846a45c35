"""The region around objects, anchor by anchor, and overlaps beside mmdet's."""

import numpy as np
import pytest
import torch
from mmdet.models.losses.iou_loss import diou_loss
from mmdet.structures.bbox import bbox_overlaps

from mmkd.losses.region import distance_iou, pairwise_iou, valuable_region


def boxes(count, seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 40, (count, 2))
    return torch.tensor(
        np.concatenate([corners, corners + rng.uniform(8, 30, (count, 2))], 1)
    ).float()


def test_overlaps_are_mmdets():
    one, other = boxes(6, 0), boxes(4, 1)
    torch.testing.assert_close(pairwise_iou(one, other), bbox_overlaps(one, other))
    for i in range(6):
        for j in range(4):
            expected = 1 - diou_loss(one[i : i + 1], other[j : j + 1], reduction='sum').item()
            assert distance_iou(one, other)[i, j].item() == pytest.approx(expected, abs=1e-5)


def test_the_region_anchor_by_anchor():
    levels, objects = [boxes(40, 2), boxes(12, 3), boxes(4, 4)], boxes(3, 5)
    found = torch.cat(valuable_region(levels, objects))
    expected = np.zeros(56, bool)
    for box in objects.numpy():
        near = []
        for level in levels:
            centres = (level[:, :2] + level[:, 2:]).numpy() / 2
            order = np.argsort(np.hypot(*(centres - (box[:2] + box[2:]) / 2).T))[:9]
            near += [bbox_overlaps(level[i : i + 1], torch.tensor(box)[None]).item() for i in order]
        tau = np.mean(near) + np.std(near, ddof=1)
        for index, anchor in enumerate(torch.cat(levels)):
            apart = 1 - diou_loss(anchor[None], torch.tensor(box)[None], reduction='sum').item()
            expected[index] |= tau / 4 <= apart < tau
    assert found.tolist() == expected.tolist()
    assert 0 < found.sum() < 56


def test_an_image_without_objects_has_no_region():
    found = valuable_region([boxes(5, 0), boxes(2, 1)], torch.zeros(0, 4))
    assert [level.tolist() for level in found] == [[False] * 5, [False] * 2]
