"""Labels that carry scores."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmkd.datasets.scores import class_of, unpack_scores, with_score


def sample(labels):
    return DetDataSample(gt_instances=InstanceData(labels=torch.tensor(labels)))


@pytest.mark.parametrize('score', [0.0, 0.3, 1 / 3, 0.999999, 1.0])
def test_class_and_score_come_back(score):
    found = sample([with_score(7, score), with_score(1200, 0.5)])
    unpack_scores(found)
    assert found.gt_instances.labels.tolist() == [7, 1200]
    assert found.gt_instances.scores.tolist() == pytest.approx([score, 0.5], abs=1e-7)
    assert class_of(with_score(7, score)) == 7


def test_plain_labels_stay_and_so_do_unpacked_ones():
    found = sample([3, 0])
    unpack_scores(found)
    assert 'scores' not in found.gt_instances
    found = sample([3, with_score(0, 0.25)])
    unpack_scores(found)
    unpack_scores(found)
    assert found.gt_instances.labels.tolist() == [3, 0]
    assert found.gt_instances.scores.tolist() == pytest.approx([1.0, 0.25])
    unpack_scores(sample([]))
