"""What every backbone of stages has: shapes, taps, weights that reload, and answers to wrong options."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmkd import InputError
from mmkd.family.stages import stage_taps

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


@pytest.mark.parametrize(
    ('net', 'indices', 'words'),
    [
        ('resnet20', (3,), r'CIFARResNet: out_indices=\(3,\) .* stages 0 to 2'),
        ('resnet20', (), r'out_indices=\(\) .* such as \(2,\)'),
        ('resnet20', 2, r'out_indices=2 .* such as \(2,\)'),
        ('wrn_16_2', (-1,), r'WideResNet: out_indices=\(-1,\) .* 0 to 2'),
        ('vgg8', (0, 5), r'CIFARVGG: out_indices=\(0, 5\) .* 0 to 4'),
        ('mobilenet', (4,), r'MobileNetV1: out_indices=\(4,\) .* 0 to 3'),
    ],
)
def test_stages_that_are_not_there_are_named(net, indices, words):
    with pytest.raises(InputError, match=words):
        build(net, out_indices=indices)
