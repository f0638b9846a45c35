"""Which models' masks compare, and by what number."""

import helpers as h
import numpy as np
import pytest
import torch
from scipy.special import expit, rel_entr

from mmkd.family.masks import MaskDivergence, has_roi_masks, mask_taps
from mmkd.family.taps import Features


def test_masks_of_boxes_are_found_stage_by_stage():
    one, many = h.build(h.mask_rcnn()), h.build(h.cascade_mask_rcnn())
    assert [tap.at for tap in mask_taps(one)] == ['roi_head.mask_head']
    assert [tap.at for tap in mask_taps(many)] == [f'roi_head.mask_head.{i}' for i in range(3)]
    shared = h.mask_rcnn()
    shared.roi_head.pop('mask_roi_extractor')
    for config, has in ((h.faster_rcnn(), False), (h.retinanet(), False), (shared, False)):
        assert has_roi_masks(h.build(config)) == has
    assert has_roi_masks(one)
    assert has_roi_masks(many)


def features(**passed):
    found = Features()
    for (at, source), value in passed.pop('places').items():
        found.add((at, source), value)
    return found


@pytest.mark.parametrize('temperature', [1.0, 2.0])
def test_the_mask_of_each_boxs_class_is_compared_pixel_by_pixel(temperature):
    divergence = MaskDivergence.of(h.build(h.mask_rcnn()), h.build(h.mask_rcnn()), temperature)
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 3, 4, 5, 5)).astype(np.float32) * 3
    classes, (tap,) = [2, 0, 3], divergence.taps
    place = ('roi_head.mask_head.loss_mask', 'input')
    student = features(
        places={
            tap.place: torch.tensor(ours),
            place: (torch.tensor(ours), torch.zeros(3, 5, 5), torch.tensor(classes)),
        }
    )
    teacher = features(places={tap.place: torch.tensor(theirs)})
    total = 0.0
    for box, index in enumerate(classes):
        s, t = (expit(side[box, index].astype(np.float64) / temperature) for side in (ours, theirs))
        total += (rel_entr(t, s) + rel_entr(1 - t, 1 - s)).sum() * temperature**2
    assert divergence(student, teacher).item() == pytest.approx(total / (3 * 25), rel=1e-5)


def test_without_objects_there_is_nothing_to_compare():
    divergence = MaskDivergence.of(h.build(h.mask_rcnn()), h.build(h.mask_rcnn()), 1.0)
    empty = torch.zeros(0, 4, 5, 5, requires_grad=True)
    student = features(places={divergence.taps[0].place: empty})
    loss = divergence(student, features(places={divergence.taps[0].place: empty.detach()}))
    assert loss.item() == 0
    loss.backward()
