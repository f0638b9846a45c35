"""A batch's samples, for a second head."""

import helpers as h
import torch

from mmkd.family.samples import own_samples


def test_labels_are_rewritten_without_the_others_and_no_tensor_is_copied():
    samples = h.raw_batch('retinanet')['data_samples']
    copies = own_samples(samples)
    for sample, copy in zip(samples, copies):
        assert copy.metainfo == sample.metainfo
        assert copy.gt_instances.labels is sample.gt_instances.labels
        labels = sample.gt_instances.labels
        copy.gt_instances.labels = labels + 1
        assert sample.gt_instances.labels is labels
        assert torch.equal(copy.gt_instances.labels, labels + 1)


def test_what_is_no_list_of_samples_is_handed_on():
    assert own_samples(None) is None
    assert own_samples([3]) == [3]
