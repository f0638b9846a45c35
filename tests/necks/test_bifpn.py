"""The self-teacher's pyramid against its formula, and its cost."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import nn

from mmkd.errors import InputError
from mmkd.family.building import build_model
from mmkd.necks.bifpn import BiFPN, Fusion, enlarge, shrink

SIZES = (16, 8, 4, 2)


def scattered(net):
    """Norms and fusion weights that are not all alike; in eval mode, so that a formula can follow."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.normal_()
            module.bias.data.normal_()
        if isinstance(module, Fusion):
            module.weights.data = torch.linspace(-0.2, 1.5, len(module.weights)).double()
    return net.double().eval()


def conv(x, weight, groups=1):
    """A convolution of stride 1 that keeps the size, one tap of its kernel at a time."""
    out, reach = 0.0, weight.shape[-1] // 2
    padded = F.pad(x, [reach] * 4)
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            window = padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
            if groups == 1:
                out = out + torch.einsum('bchw,dc->bdhw', window, weight[:, :, i, j])
            else:
                out = out + window * weight[None, :, 0, i, j, None, None]
    return out


def norm(x, bn):
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    return (x - bn.running_mean[:, None, None]) * scale[:, None, None] + bn.bias[:, None, None]


def one(x, block):
    return norm(conv(x, block[0].weight), block[1]).clamp_min(0)


def three(x, block):
    for start in range(0, len(block), 4):
        if start:
            x = x.clamp_min(0)
        x = conv(conv(x, block[start].weight, groups=x.shape[1]), block[start + 1].weight)
        x = norm(x, block[start + 2])
    return x


def mixed(fusion, *maps):
    w = fusion.weights.clamp_min(0)
    return sum(share * m for share, m in zip(w, maps)) / (w.sum() + 1e-6)


def doubled(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halved(x):
    padded = F.pad(x, (0, 1, 0, 1))
    cells = [padded[:, :, i : i + x.shape[2] : 2, j : j + x.shape[3] : 2]
             for i in range(3) for j in range(3)]  # fmt: skip
    return torch.stack([c[:, :, : x.shape[2] // 2, : x.shape[3] // 2] for c in cells]).amax(0)


def by_formula(layer, maps, project, first):
    def r(x):
        return x.clamp_min(0)

    n = len(maps)
    low = [one(r(m), b) if first else m for m, b in zip(maps, layer.laterals)]
    mid = [None] + [one(r(m), b) for m, b in zip(maps[1:], layer.second_laterals)]
    p, t = [None] * (n - 1) + [low[-1]], [None] * n
    for i in range(n - 2, -1, -1):
        us = doubled(r(p[i + 1]))
        us = one(us, layer.raisers[i]) if project else us
        p[i] = three(mixed(layer.up_fusions[i], r(low[i]), us), layer.ups[i])
    t[0] = p[0]
    for i in range(1, n):
        ds = halved(r(t[i - 1]))
        ds = one(ds, layer.lowerers[i - 1]) if project else ds
        parts = (r(mid[i]), r(p[i]), ds) if i < n - 1 else (r(mid[i]), ds)
        t[i] = three(mixed(layer.down_fusions[i - 1], *parts), layer.downs[i - 1])
    return [r(x) for x in t]


@pytest.mark.parametrize(
    'options', [dict(), dict(channels=6), dict(width=1, depth=1), dict(depth=3)]
)
@pytest.mark.parametrize('repeat', [1, 2])
@pytest.mark.parametrize('levels', [2, 3, 4])
def test_it_equals_the_formula(levels, repeat, options):
    channels = (3, 4, 6, 8)[:levels]
    net = scattered(BiFPN(channels, repeat=repeat, **options))
    maps = [torch.randn(2, c, s, s + 4 * s).double() for c, s in zip(channels, SIZES)]
    expected = maps
    for index, layer in enumerate(net.layers):
        expected = by_formula(layer, expected, 'channels' not in options, first=index == 0)
    for refined, by_hand in zip(net(maps), expected):
        assert torch.allclose(refined, by_hand, atol=1e-6)
        assert (refined >= 0).all()


@pytest.mark.parametrize('sizes', [[(7, 13), (4, 7), (2, 4)], [(9, 9), (4, 4), (1, 1)],
                                   [(8, 8), (8, 8), (8, 8)], [(32, 20), (8, 5), (7, 5)]])  # fmt: skip
@pytest.mark.parametrize('repeat', [1, 3])
def test_maps_may_have_any_sizes(sizes, repeat):
    maps = [torch.randn(2, c, *size, requires_grad=True) for c, size in zip((4, 6, 8), sizes)]
    net = BiFPN((4, 6, 8), repeat=repeat)
    refined = net(maps)
    assert [tuple(t.shape) for t in refined] == [(2, 2 * c, *s) for c, s in zip((4, 6, 8), sizes)]
    sum(t.sum() for t in refined).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert all(m.grad.abs().sum() > 0 for m in maps)


def test_it_does_not_change_its_inputs():
    maps = [torch.randn(2, 4, 8, 8), torch.randn(2, 8, 4, 4)]
    before = [m.clone() for m in maps]
    BiFPN((4, 8))(maps)
    assert all(torch.equal(m, b) for m, b in zip(maps, before))


@pytest.mark.parametrize('n', [1, 2, 3, 6, 7])
def test_pooling_by_half_pads_as_same_does(n):
    x = torch.rand(1, 2, n, n)
    out = -(-n // 2)
    before = ((out - 1) * 2 + 3 - n) // 2
    padded = F.pad(x, [before, 3, before, 3])
    expected = F.max_pool2d(padded, 3, 2)[:, :, :out, :out]
    assert torch.equal(shrink(x, (out, out)) if n > 1 else x, expected)


def test_resizing_to_the_same_size_is_nothing():
    x = torch.rand(1, 2, 5, 3)
    assert enlarge(x, (5, 3)) is x
    assert shrink(x, (5, 3)) is x


def cost(net, *inputs):
    """Parameters and multiply-adds of a network for one image."""
    macs = []

    def count(module, _, output):
        macs.append(output.numel() * module.weight[0].numel())

    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    with torch.no_grad():
        net.eval()(*inputs)
    return sum(p.numel() for p in net.parameters()), sum(macs)


@pytest.mark.parametrize(
    ('backbone', 'channels', 'options', 'parameters', 'macs'),
    [
        (dict(type='ResNet_CIFAR', depth=18), (64, 128, 256, 512), dict(), 0.57, 0.71),
        (dict(type='mmkd.WideResNet', depth=16, width=2), (32, 64, 128), dict(), 0.59, 0.67),
        (dict(type='mmkd.WideResNet', depth=16, width=2), (32, 64, 128), dict(channels=256), 0.97, 2.35),
    ],
)  # fmt: skip
def test_its_cost_beside_the_student(backbone, channels, options, parameters, macs):
    head = dict(type='LinearClsHead', num_classes=100, in_channels=channels[-1])
    student = dict(
        _scope_='mmpretrain', type='ImageClassifier', backbone=backbone, head=head,
        neck=dict(type='GlobalAveragePooling'),
    )  # fmt: skip
    maps = [torch.zeros(1, c, 32 >> i, 32 >> i) for i, c in enumerate(channels)]
    net = BiFPN(channels, **options)
    fc = nn.Linear(net.out_channels[-1], 100)
    theirs = cost(build_model(student), torch.zeros(1, 3, 32, 32))
    ours = [a + b for a, b in zip(cost(net, maps), cost(fc, torch.zeros(1, fc.in_features)))]
    assert ours[0] / theirs[0] == pytest.approx(parameters, abs=0.01)
    assert ours[1] / theirs[1] == pytest.approx(macs, abs=0.01)


def test_its_parameters_beside_the_cells_of_the_authors_segmentor():
    ours = BiFPN([64] * 6, channels=64, repeat=2)
    assert sum(p.numel() for p in ours.parameters()) == 259_632
    cell = nn.Sequential(nn.Conv2d(64, 64, 1, groups=64), nn.BatchNorm2d(64), nn.ReLU())
    down_and_up, down = 6 + 5, 6
    assert (down_and_up + down) * sum(p.numel() for p in cell.parameters()) == 4_352


def test_it_is_registered():
    assert isinstance(MODELS.build(dict(type='mmkd.BiFPN', in_channels=[4, 8])), BiFPN)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(in_channels=[8]), 'in_channels=[8]; needed: two levels or more'),
        (dict(repeat=0), 'repeat=0; needed: a whole number >= 1'),
        (dict(depth=1.5), 'depth=1.5; needed: a whole number >= 1'),
        (dict(channels=0), 'channels=0; needed: a whole number >= 1'),
        (dict(width=-1), 'width=-1; needed: a number above 0'),
    ],
)
def test_wrong_input_is_answered(options, words):
    with pytest.raises(InputError) as error:
        BiFPN(**{'in_channels': [4, 8], **options})
    assert words in str(error.value)
