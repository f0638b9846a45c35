"""FGD's four terms between the maps of a level, and summed over levels, against their formulas."""

import helpers as h
import pytest
import torch
from mmengine.structures import InstanceData

from mmkd.errors import InputError
from mmkd.losses.focal_global import (
    background_mask,
    channel_attention,
    focal_distance,
    foreground_mask,
    spatial_attention,
)
from mmkd.necks.focal_global import (
    WEIGHTS,
    FocalGlobal,
    FocalGlobalLevels,
    GlobalContext,
    detector_kind,
    focal_weights,
    foreground_masks,
)

ALL = dict(alpha=1.0, beta=2.0, gamma=3.0, lam=4.0)
IMAGE = (48, 64)
BOXES = [
    torch.tensor([[3.0, 5.0, 30.0, 40.0], [10.0, 8.0, 20.0, 17.0], [60.0, 2.0, 64.0, 9.0]]),
    torch.zeros(0, 4),
]


class Sample:
    """What a data sample is to the masks."""

    def __init__(self, boxes):
        self.gt_instances = InstanceData(bboxes=boxes)

    def __contains__(self, name):
        return name == 'gt_instances'


def woken(level):
    """With relation blocks that are no identity."""
    for context in (level.student_context, level.teacher_context):
        torch.nn.init.normal_(context.transform[3].weight)
    return level


def context_by_hand(block, maps):
    out = maps.clone()
    first, norm, _, last = block.transform
    for image in range(len(maps)):
        cells = maps[image].flatten(1)
        powers = (block.attend.weight[0, :, 0, 0] @ cells + block.attend.bias).exp()
        context = cells @ (powers / powers.sum())
        hidden = first.weight[:, :, 0, 0] @ context + first.bias
        hidden = (hidden - hidden.mean()) / (hidden.var(unbiased=False) + norm.eps).sqrt()
        hidden = (hidden * norm.weight[:, 0, 0] + norm.bias[:, 0, 0]).clamp_min(0)
        out[image] += (last.weight[:, :, 0, 0] @ hidden + last.bias)[:, None, None]
    return out


def test_the_terms_equal_the_formula():
    student, teacher = torch.randn(2, 2, 6, 4, 5).double()
    level = woken(FocalGlobal(6, temperature=0.5).double())
    mask = torch.stack([foreground_mask(boxes, (4, 5), IMAGE) for boxes in BOXES]).double()
    s_space, space = (spatial_attention(side, 0.5) for side in (student, teacher))
    s_channel, channel = (channel_attention(side, 0.5) for side in (student, teacher))
    related = context_by_hand(level.student_context, student)
    related = related - context_by_hand(level.teacher_context, teacher)
    expected = {
        'loss_foreground': focal_distance(student, teacher, space, channel, mask),
        'loss_background': focal_distance(student, teacher, space, channel, background_mask(mask)),
        'loss_attention': ((s_space - space).abs().sum() + (s_channel - channel).abs().sum()) / 2,
        'loss_relation': (related**2).sum() / 2,
    }
    got = level(student, teacher, mask)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-9, atol=0)


def test_a_relation_block_starts_as_the_identity():
    maps = torch.randn(2, 8, 3, 3)
    assert torch.equal(GlobalContext(8)(maps), maps)


def test_levels_are_weighted_and_summed():
    samples = [Sample(boxes) for boxes in BOXES]
    pairs = [torch.randn(2, 2, 6, *size).unbind() for size in ((12, 16), (6, 8))]
    levels = FocalGlobalLevels([6, 6], ALL)
    got = levels(pairs, samples, torch.Size(IMAGE))
    names = ('foreground', 'background', 'attention', 'relation')
    for name, weight in zip(names, ALL.values()):
        expected = 0.0
        for level, (student, teacher) in zip(levels, pairs):
            size = student.shape[-2:]
            mask = torch.stack([foreground_mask(boxes, size, IMAGE) for boxes in BOXES])
            expected += weight * level(student, teacher, mask)[f'loss_{name}'].item()
        assert got[f'loss_{name}'].item() == pytest.approx(expected, rel=1e-6), name


def test_a_term_without_weight_is_left_out():
    levels = FocalGlobalLevels([6], dict(ALL, lam=0.0))
    pair = (torch.randn(2, 6, 6, 8), torch.randn(2, 6, 6, 8))
    got = levels([pair], [Sample(boxes) for boxes in BOXES], torch.Size(IMAGE))
    assert set(got) == {'loss_foreground', 'loss_background', 'loss_attention'}


def test_every_image_has_a_mask_of_its_own():
    masks = foreground_masks([Sample(boxes) for boxes in BOXES], (6, 8), IMAGE, torch.device('cpu'))
    assert masks.shape == (2, 6, 8)
    assert masks[0].max() > 0 == masks[1].max()


@pytest.mark.parametrize(
    ('family', 'kind'),
    [
        ('retinanet', 'anchor-based'),
        ('fcos', 'anchor-free'),
        ('faster_rcnn', 'two-stage'),
        ('dino', 'two-stage'),
    ],
)
def test_published_weights_follow_the_kind_of_detector(family, kind):
    model = h.build(h.FAMILIES[family]())
    assert detector_kind(model) == kind
    assert focal_weights(model) == WEIGHTS[kind]
    assert focal_weights(model, dict(lam=0.0)) == dict(WEIGHTS[kind], lam=0.0)


def test_wrong_input_is_named():
    with pytest.raises(InputError, match=r"FGD: unknown option 'alfa'; nearest: 'alpha'"):
        focal_weights(h.build(h.retinanet()), dict(alfa=1.0))
    with pytest.raises(InputError, match=r'temperature=-1.0; needed: a number above 0'):
        FocalGlobal(8, temperature=-1.0)
