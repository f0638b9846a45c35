"""Matches are those of the head's own targets, of all layers."""

import helpers as h
import pytest
import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from mmengine.structures import InstanceData

from mmkd.family.matched import matches


def found(layers, boxes=3):
    model = h.build(h.dab_detr()).eval()
    batch = model.data_preprocessor(h.raw_batch('dab_detr'), True)
    samples = batch['data_samples']
    samples[1].gt_instances = samples[1].gt_instances[:boxes]
    generator = torch.Generator().manual_seed(1)
    classes = torch.randn(layers, 2, 30, h.CLASSES, generator=generator)
    places = torch.rand(layers, 2, 30, 4, generator=generator) * 0.5 + 0.2
    return model.bbox_head, classes, places, samples


@pytest.mark.parametrize('boxes', [3, 0])
def test_one_layer_is_matched_as_the_heads_targets_are(boxes):
    head, classes, places, samples = found(1, boxes)
    matched, overlaps = matches(head, classes, places, samples)
    given = [s.gt_instances for s in samples], [s.metainfo for s in samples]
    labels, _, targets, *_ = head.get_targets([*classes[0]], [*places[0]], *given)
    assert torch.equal(matched, torch.stack(labels) < h.CLASSES)
    assert matched.sum(1).tolist() == [3, boxes]
    for image in range(2):
        height, width = samples[image].metainfo['img_shape']
        scale = torch.tensor([width, height] * 2)
        pair = (bbox_cxcywh_to_xyxy(side) * scale for side in (places[0, image], targets[image]))
        right = bbox_overlaps(*pair, is_aligned=True) * matched[image]
        torch.testing.assert_close(overlaps[0, image], right, rtol=1e-4, atol=1e-5)


def test_a_query_goes_with_the_object_that_most_layers_choose():
    head, classes, places, samples = found(3)
    objects = torch.tensor([[0.0, 0.0, 20.0, 20.0], [30.0, 30.0, 50.0, 50.0]])
    for sample in samples:
        sample.set_metainfo(dict(img_shape=(100, 100)))
        sample.gt_instances = InstanceData(bboxes=objects, labels=torch.tensor([0, 1]))
    choices = iter([[1, 2], [2, 1], [2, 1]] * 2)

    class Assigner:
        def assign(self, pred_instances, gt_instances, img_meta):
            indices = torch.zeros(len(pred_instances), dtype=torch.long)
            indices[:2] = torch.tensor(next(choices))
            return InstanceData(gt_inds=indices)

    head.assigner = Assigner()
    places[:, :, 0] = torch.tensor([0.4, 0.4, 0.2, 0.2])
    matched, overlaps = matches(head, classes, places, samples)
    assert matched.sum(1).tolist() == [2, 2]
    assert overlaps[:, :, 0].unique().item() == pytest.approx(1.0)
    assert not overlaps[:, :, 2:].any()
