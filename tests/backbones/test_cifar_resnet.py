"""ResNets for CIFAR: their published sizes, a block by hand, and wrong options."""

import helpers as h
import pytest
import torch
import torch.nn.functional as F

from mmkd import InputError
from mmkd.backbones.cifar_resnet import BasicBlock, CIFARResNet


@pytest.mark.parametrize(
    ('net', 'millions'),
    [
        ('resnet8x4', 1.23),
        ('resnet32x4', 7.43),
        ('resnet20', 0.28),
        ('resnet32', 0.47),
        ('resnet56', 0.86),
        ('resnet110', 1.74),
    ],
)
def test_parameters_are_as_many_as_published(net, millions):
    assert h.millions(f'cifar100/{net}_cifar100.py') == millions


@pytest.mark.parametrize(('channels', 'stride'), [(8, 1), (16, 1), (8, 2)])
def test_a_block_is_two_convolutions_and_a_shortcut(channels, stride):
    block, maps = BasicBlock(8, channels, stride).eval(), torch.randn(2, 8, 6, 6)

    def normed(layers, maps, **options):
        conv, norm = layers[0], layers[1]
        maps = F.conv2d(maps, conv.weight, **options)
        return maps / (1 + norm.eps) ** 0.5  # a fresh norm: mean 0, variance 1

    inner = normed(block.conv1, maps, stride=stride, padding=1).relu()
    same = channels == 8 and stride == 1
    shortcut = maps if same else normed(block.shortcut, maps, stride=stride)
    expected = (normed(block.conv2, inner, padding=1) + shortcut).relu()
    torch.testing.assert_close(block(maps), expected)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(depth=18), r'CIFARResNet: depth=18 is not 6n \+ 2 .* such as 8, 14, 20'),
        (dict(depth=2), r'depth=2 is not 6n \+ 2'),
        (dict(depth='20'), r"depth='20' is not 6n \+ 2"),
        (dict(depth=20, widths=(16, 32, 64)), r'widths=\(16, 32, 64\) .* \(16, 16, 32, 64\)'),
    ],
)
def test_wrong_options_say_what_is_right(options, words):
    with pytest.raises(InputError, match=words):
        CIFARResNet(**options)
