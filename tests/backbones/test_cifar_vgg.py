"""VGG nets for CIFAR: their published sizes and layers, and wrong options."""

import helpers as h
import pytest
from torch import nn

from mmkd import InputError
from mmkd.backbones.cifar_vgg import CIFARVGG


@pytest.mark.parametrize(('net', 'millions'), [('vgg8', 3.97), ('vgg13', 9.46)])
def test_parameters_are_as_many_as_published(net, millions):
    assert h.millions(f'cifar100/{net}_cifar100.py') == millions


@pytest.mark.parametrize('depth', [8, 11, 13, 16, 19])
def test_a_net_has_its_convolutions_and_three_pools(depth):
    layers = [type(module) for module in CIFARVGG(depth).modules()]
    assert layers.count(nn.Conv2d) == depth - 3  # the literature counts three linear layers
    assert layers.count(nn.MaxPool2d) == 3


def test_a_depth_that_is_none_of_the_nets_is_named():
    with pytest.raises(InputError, match=r'CIFARVGG: depth=9 is none of 8, 11, 13, 16, 19'):
        CIFARVGG(9)
