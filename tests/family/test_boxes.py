"""The annotated boxes of a batch."""

import helpers as h
import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes

from mmkd.errors import InputError
from mmkd.family.boxes import annotated_boxes


def test_they_are_those_of_each_image_whatever_holds_them():
    samples = h.raw_batch('retinanet')['data_samples']
    plain = [sample.gt_instances.bboxes.clone() for sample in samples]
    samples[0].gt_instances.bboxes = HorizontalBoxes(plain[0])
    samples[1].gt_instances = samples[1].gt_instances[:0]
    found = annotated_boxes(samples)
    assert [type(boxes) for boxes in found] == [torch.Tensor, torch.Tensor]
    assert torch.equal(found[0], plain[0])
    assert found[1].shape == (0, 4)


@pytest.mark.parametrize('samples', [None, [], h.raw_batch('classifier')['data_samples']])
def test_a_batch_without_boxes_is_named(samples):
    with pytest.raises(InputError, match=r'need the annotated boxes of a detector.*pkd, cwd'):
        annotated_boxes(samples)
