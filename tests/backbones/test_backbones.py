import helpers as h
import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmkd import InputError
from mmkd.family.building import build_model, load_config, model_config
from mmkd.family.stages import stage_taps

CONFIGS = h.ROOT / 'configs'
MILLIONS = {
    'cifar100/resnet8x4_cifar100.py': 1.23,
    'cifar100/resnet32x4_cifar100.py': 7.43,
    'cifar100/resnet20_cifar100.py': 0.28,
    'cifar100/resnet32_cifar100.py': 0.47,
    'cifar100/resnet56_cifar100.py': 0.86,
    'cifar100/resnet110_cifar100.py': 1.74,
    'cifar100/wrn_16_2_cifar100.py': 0.70,
    'cifar100/wrn_40_2_cifar100.py': 2.26,
    'cifar100/vgg8_cifar100.py': 3.97,
    'cifar100/vgg13_cifar100.py': 9.46,
    'imagenet/mobilenet_v1_8xb32_in1k.py': 4.23,
}
"""Parameters of the whole classifier, as the papers print them."""

NETS = {
    'resnet20': dict(type='mmkd.CIFARResNet', depth=20),
    'resnet8x4': dict(type='mmkd.CIFARResNet', depth=8, widths=(32, 64, 128, 256)),
    'wrn_16_2': dict(type='mmkd.WideResNet', depth=16, width=2),
    'vgg8': dict(type='mmkd.CIFARVGG', depth=8),
    'mobilenet': dict(type='mmkd.MobileNetV1', width=0.5),
}
SHAPES = {
    'resnet20': [(16, 32), (32, 16), (64, 8)],
    'resnet8x4': [(64, 32), (128, 16), (256, 8)],
    'wrn_16_2': [(32, 32), (64, 16), (128, 8)],
    'vgg8': [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)],
    'mobilenet': [(64, 8), (128, 4), (256, 2), (512, 1)],
}
"""Channels and size of each stage's output for images of 32x32."""


def build(net, **options):
    backbone = MODELS.build(dict(NETS[net], **options))
    backbone.init_weights()
    return backbone


def all_stages(net):
    return tuple(range(len(SHAPES[net])))


def classifier(config):
    return build_model(model_config(load_config(CONFIGS / config)))


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


@pytest.mark.parametrize('config', MILLIONS)
def test_parameters_are_as_many_as_published(config):
    count = sum(p.numel() for p in classifier(config).parameters())
    assert round(count / 1e6, 2) == MILLIONS[config]


def test_mobilenet_multiplies_as_often_as_published():
    config = 'imagenet/mobilenet_v1_8xb32_in1k.py'
    assert 568e6 < multiply_adds(classifier(config), 224) < 575e6


@pytest.mark.parametrize('net', NETS)
def test_shapes_of_all_stages(net):
    outputs = build(net, out_indices=all_stages(net))(torch.randn(2, 3, 32, 32))
    assert [tuple(o.shape) for o in outputs] == [(2, c, s, s) for c, s in SHAPES[net]]


@pytest.mark.parametrize('net', NETS)
def test_the_last_stage_is_the_output_and_is_activated(net):
    backbone, images = build(net), torch.randn(2, 3, 32, 32)
    (output,) = backbone(images)
    *_, last = build(net, out_indices=all_stages(net))(images)
    assert output.shape == last.shape
    assert (output >= 0).all()
    assert output.std() > 0


@pytest.mark.parametrize('net', NETS)
def test_a_tap_at_each_stage_sees_what_the_backbone_gives(net):
    backbone = build(net, out_indices=all_stages(net)).eval()
    model = nn.Module()
    model.backbone = backbone
    taps = [tap.at for tap in stage_taps(model)]
    assert taps == [f'backbone.stages.{i}' for i in all_stages(net)]
    seen = []
    for tap in taps:
        model.get_submodule(tap).register_forward_hook(lambda *args: seen.append(args[2].clone()))
    outputs = backbone(torch.randn(1, 3, 32, 32))
    assert all(torch.equal(a, b) for a, b in zip(seen, outputs))


def test_only_the_last_stage_of_a_wide_resnet_is_activated():
    images = torch.randn(2, 3, 32, 32)
    first, second, last = build('wrn_16_2', out_indices=(0, 1, 2))(images)
    assert first.min() < 0
    assert second.min() < 0
    assert last.min() == 0


@pytest.mark.parametrize('net', NETS)
def test_weights_reload(net):
    one, two, images = build(net).eval(), build(net).eval(), torch.randn(1, 3, 32, 32)
    assert not torch.equal(one(images)[0], two(images)[0])
    two.load_state_dict(one.state_dict(), strict=True)
    assert torch.equal(one(images)[0], two(images)[0])


def test_initial_weights_are_hes():
    backbone = build('resnet8x4')
    conv = backbone.stages[2][0].conv2[0]
    assert conv.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all((n.weight == 1).all() and (n.bias == 0).all() for n in norms)


def test_outputs_come_in_the_order_asked_for():
    last, first = build('resnet20', out_indices=[2, 0])(torch.randn(1, 3, 32, 32))
    assert (last.shape[1], first.shape[1]) == (64, 16)


def test_a_wide_resnet_drops_units_only_while_it_trains():
    net, images = build('wrn_16_2', dropout=0.5), torch.randn(1, 3, 32, 32)
    assert not torch.equal(net(images)[0], net(images)[0])
    net.eval()
    assert torch.equal(net(images)[0], net(images)[0])


def test_mobilenets_keep_eight_channels():
    assert build('mobilenet', width=0.1).stem[0][0].out_channels == 8


@pytest.mark.parametrize(
    ('net', 'options', 'words'),
    [
        ('resnet20', dict(depth=18), r'CIFARResNet: depth=18 is not 6n \+ 2 .* such as 8, 14, 20'),
        ('resnet20', dict(depth=2), r'depth=2 is not 6n \+ 2'),
        ('resnet20', dict(depth='20'), r"depth='20' is not 6n \+ 2"),
        ('resnet20', dict(widths=(16, 32, 64)), r'widths=\(16, 32, 64\) .* \(16, 16, 32, 64\)'),
        ('resnet20', dict(out_indices=(3,)), r'CIFARResNet: out_indices=\(3,\) .* stages 0 to 2'),
        ('resnet20', dict(out_indices=()), r'out_indices=\(\) .* such as \(2,\)'),
        ('resnet20', dict(out_indices=2), r'out_indices=2 .* such as \(2,\)'),
        ('wrn_16_2', dict(depth=20), r'WideResNet: depth=20 is not 6n \+ 4 .* such as 10, 16'),
        ('wrn_16_2', dict(width=0), r'WideResNet: width=0 is no number above 0'),
        ('wrn_16_2', dict(out_indices=(-1,)), r'WideResNet: out_indices=\(-1,\) .* 0 to 2'),
        ('vgg8', dict(depth=9), r'CIFARVGG: depth=9 is none of 8, 11, 13, 16, 19'),
        ('vgg8', dict(out_indices=(0, 5)), r'CIFARVGG: out_indices=\(0, 5\) .* 0 to 4'),
        ('mobilenet', dict(width=-1.0), r'MobileNetV1: width=-1.0 is no number above 0'),
        ('mobilenet', dict(out_indices=(4,)), r'MobileNetV1: out_indices=\(4,\) .* 0 to 3'),
    ],
)
def test_wrong_options_say_what_is_right(net, options, words):
    with pytest.raises(InputError, match=words):
        build(net, **options)
