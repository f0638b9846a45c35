"""MobileNets: published size and cost, a separable layer by hand, and wrong options."""

import helpers as h
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmkd import InputError
from mmkd.backbones.mobilenet_v1 import MobileNetV1, separable

CONFIG = 'imagenet/mobilenet_v1_8xb32_in1k.py'


def multiply_adds(model, size):
    """Of the convolutions and linear layers, for one image."""
    counts = []

    def count(layer, _, output):
        counts.append(output.numel() * layer.weight[0].numel())

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    return sum(counts)


def test_parameters_are_as_many_as_published():
    assert h.millions(CONFIG) == 4.23


def test_it_multiplies_as_often_as_published():
    assert 568e6 < multiply_adds(h.shipped(CONFIG), 224) < 575e6


def test_a_separable_layer_mixes_channels_after_positions():
    layer, maps = separable(4, 6, stride=2).eval(), torch.randn(2, 4, 6, 6)
    (depthwise, first, _), (pointwise, second, _) = layer
    scale = (1 + first.eps) ** -0.5  # of a fresh norm
    alone = [
        F.conv2d(maps[:, c : c + 1], depthwise.weight[c : c + 1], stride=2, padding=1)
        for c in range(4)
    ]
    filtered = (torch.cat(alone, 1) * scale).relu()
    mixed = torch.einsum('oc,bchw->bohw', pointwise.weight[:, :, 0, 0], filtered)
    assert second.eps == first.eps
    torch.testing.assert_close(layer(maps), (mixed * scale).relu())


def test_eight_channels_stay():
    assert MobileNetV1(width=0.1).stem[0][0].out_channels == 8


def test_a_width_that_is_none_is_named():
    with pytest.raises(InputError, match=r'MobileNetV1: width=-1.0 is no number above 0'):
        MobileNetV1(width=-1.0)
