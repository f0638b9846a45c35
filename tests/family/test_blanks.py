"""What a model is dry-run on."""

import helpers as h
import pytest
import torch
from torch import nn

from mmkd import Tap
from mmkd.family.blanks import blank_batch, blank_rois, channels_of_images


@pytest.mark.parametrize('family', ['classifier', 'retinanet', 'segmentor'])
def test_a_batch_is_one_black_image_with_what_detectors_read_of_it(family):
    model = h.build(h.FAMILIES[family]())
    inputs, samples = blank_batch(model, 96)
    assert torch.equal(inputs, torch.zeros(1, 3, 96, 96))
    if family != 'retinanet':
        assert samples is None
        return
    (sample,) = samples
    for name in ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'):
        assert sample.metainfo[name] == (96, 96)
    model.eval()
    assert len(model.predict(inputs, samples)) == 1


def test_it_has_the_number_format_of_the_model():
    assert blank_batch(nn.Linear(1, 1).double(), 8)[0].dtype == torch.float64
    assert blank_batch(nn.ReLU(), 8)[0].dtype == torch.float32


@pytest.mark.parametrize(('mean', 'channels'), [([1.0], 1), ([1.0] * 12, 12), (None, 3)])
def test_images_have_the_channels_of_the_preprocessor(mean, channels):
    model = nn.Module()
    model.data_preprocessor = nn.Module()
    if mean is not None:
        model.data_preprocessor.mean = torch.tensor(mean).view(-1, 1, 1)
    assert channels_of_images(model) == channels
    assert blank_batch(model, 16)[0].shape == (1, channels, 16, 16)


def test_boxes_are_for_the_stages_that_are_tapped_and_lie_in_the_image():
    taps = [Tap('neck'), Tap('roi_head.bbox_head.0'), Tap('roi_head.bbox_head.2', item=0)]
    rois = blank_rois(taps, torch.zeros(1, 3, 64, 64))
    assert set(rois) == {('bbox', 0), ('bbox', 2)}
    for boxes in rois.values():
        assert boxes.tolist() == [[0, 0, 0, 32, 32], [0, 16, 16, 64, 64]]
    assert set(blank_rois([Tap('roi_head.bbox_head')], torch.zeros(1, 3, 64, 64))) == {
        ('bbox', None)
    }
    assert blank_rois([Tap('neck')], torch.zeros(1, 3, 64, 64)) == {}
