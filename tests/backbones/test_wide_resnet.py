"""Wide ResNets: their published sizes, what is activated and dropped, and wrong options."""

import helpers as h
import pytest
import torch

from mmkd import InputError
from mmkd.backbones.wide_resnet import WideResNet


@pytest.mark.parametrize(('net', 'millions'), [('wrn_16_2', 0.70), ('wrn_40_2', 2.26)])
def test_parameters_are_as_many_as_published(net, millions):
    assert h.millions(f'cifar100/{net}_cifar100.py') == millions


def test_only_the_last_stage_is_activated():
    images = torch.randn(2, 3, 32, 32)
    first, second, last = WideResNet(16, 2, out_indices=(0, 1, 2))(images)
    assert first.min() < 0
    assert second.min() < 0
    assert last.min() == 0


def test_units_are_dropped_only_in_training():
    net, images = WideResNet(16, 2, dropout=0.5), torch.randn(1, 3, 32, 32)
    assert not torch.equal(net(images)[0], net(images)[0])
    net.eval()
    assert torch.equal(net(images)[0], net(images)[0])


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(depth=20, width=2), r'WideResNet: depth=20 is not 6n \+ 4 .* such as 10, 16'),
        (dict(depth=16, width=0), r'WideResNet: width=0 is no number above 0'),
    ],
)
def test_wrong_options_say_what_is_right(options, words):
    with pytest.raises(InputError, match=words):
        WideResNet(**options)
