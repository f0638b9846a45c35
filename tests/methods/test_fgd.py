"""FGD against its formula written out in loops."""

import math

import helpers as h
import pytest
import torch

from mmkd.errors import InputError
from mmkd.losses.focal_global import background_mask, foreground_mask
from mmkd.necks.focal_global import FocalGlobal, GlobalContext, detector_kind, focal_weights

BOXES = [
    torch.tensor([[3.0, 5.0, 30.0, 40.0], [10.0, 8.0, 20.0, 17.0], [60.0, 2.0, 64.0, 9.0]]),
    torch.zeros(0, 4),
]


def masks_in_loops(boxes, size, image):
    mask = torch.zeros(size)
    for x1, y1, x2, y2 in boxes.tolist():
        left, right = math.floor(x1 / image[1] * size[1]), math.ceil(x2 / image[1] * size[1])
        top, bottom = math.floor(y1 / image[0] * size[0]), math.ceil(y2 / image[0] * size[0])
        area = (bottom + 1 - top) * (right + 1 - left)
        for row in range(max(top, 0), min(bottom + 1, size[0])):
            for column in range(max(left, 0), min(right + 1, size[1])):
                mask[row, column] = max(mask[row, column], 1 / area)
    return mask


@pytest.mark.parametrize('size', [(8, 8), (6, 11), (2, 2)])
@pytest.mark.parametrize('boxes', BOXES, ids=['three', 'none'])
def test_masks(boxes, size):
    mask = foreground_mask(boxes, size, (48, 64))
    assert torch.allclose(mask, masks_in_loops(boxes, size, (48, 64)), atol=1e-7)
    background = background_mask(mask[None])[0]
    cells = (mask == 0).sum()
    assert torch.allclose(background, (mask == 0) / max(int(cells), 1))


def attention(maps, temperature):
    batch, channels, height, width = maps.shape
    spatial = torch.zeros(batch, height, width, dtype=maps.dtype)
    channel = torch.zeros(batch, channels, dtype=maps.dtype)
    for image in range(batch):
        strength = torch.tensor(
            [[maps[image, :, i, j].abs().mean() for j in range(width)] for i in range(height)]
        )
        powers = (strength / temperature).exp()
        spatial[image] = height * width * powers / powers.sum()
        strength = torch.tensor([maps[image, c].abs().mean() for c in range(channels)])
        powers = (strength / temperature).exp()
        channel[image] = channels * powers / powers.sum()
    return spatial, channel


def test_the_terms_equal_the_formula():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 6, 4, 5).double()
    level = FocalGlobal(6, temperature=0.5).double()
    for context in (level.student_context, level.teacher_context):
        torch.nn.init.normal_(context.transform[3].weight)
    mask = torch.stack([masks_in_loops(boxes, (4, 5), (48, 64)) for boxes in BOXES]).double()
    terms = level(student, teacher, mask)
    (s_space, s_channel), (space, channel) = attention(student, 0.5), attention(teacher, 0.5)
    expected = dict.fromkeys(terms, 0.0)
    for image in range(2):
        empty = (mask[image] == 0).double()
        for c in range(6):
            for i in range(4):
                for j in range(5):
                    squared = (student[image, c, i, j] - teacher[image, c, i, j]) ** 2
                    squared = squared * space[image, i, j] * channel[image, c] / 2
                    expected['loss_foreground'] += squared * mask[image, i, j]
                    expected['loss_background'] += squared * empty[i, j] / empty.sum()
        expected['loss_attention'] += (s_space[image] - space[image]).abs().sum() / 2
        expected['loss_attention'] += (s_channel[image] - channel[image]).abs().sum() / 2
    related = context_by_hand(level.student_context, student)
    related = related - context_by_hand(level.teacher_context, teacher)
    expected['loss_relation'] = (related**2).sum() / 2
    for name, value in terms.items():
        assert value.item() == pytest.approx(float(expected[name]), rel=1e-6), name


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


def test_a_relation_block_starts_as_the_identity():
    maps = torch.randn(2, 8, 3, 3)
    assert torch.equal(GlobalContext(8)(maps), maps)


@pytest.mark.parametrize('family', ['retinanet', 'gfl', 'faster_rcnn', 'cascade_rcnn', 'dino'])
def test_the_method_sums_weighted_levels(family):
    teacher = h.FAMILIES[family]()
    model = h.distiller(h.FAMILIES[family](), teacher, fgd=dict(type='mmkd.FGD'))
    data = model.data_preprocessor(h.raw_batch(family), True)
    fgd = model.distillation.fgd
    h.freeze_statistics(model)  # so that a second pass gives the same features
    with torch.no_grad():
        losses = model(**data, mode='loss')
        ours = model.extract_feat(data['inputs'])
        theirs = model.distillation.teachers['teacher'].model.extract_feat(data['inputs'])
    image = data['inputs'].shape[-2:]
    expected = dict.fromkeys(fgd.terms.weights, 0.0)
    for level, s, t in zip(fgd.terms, ours, theirs):
        boxes = [sample.gt_instances.bboxes for sample in data['data_samples']]
        boxes = [getattr(b, 'tensor', b) for b in boxes]
        mask = torch.stack([masks_in_loops(b, s.shape[-2:], image) for b in boxes])
        for name, value in level(s, t, mask).items():
            expected[name] += fgd.terms.weights[name] * value.item()
    for name, value in expected.items():
        assert losses[f'fgd/{name}'].item() == pytest.approx(value, rel=1e-5), name


def test_published_weights_follow_the_kind_of_detector():
    kinds = dict(retinanet='anchor-based', faster_rcnn='two-stage', dino='two-stage')
    for family, kind in kinds.items():
        assert detector_kind(h.build(h.FAMILIES[family]())) == kind
    assert focal_weights(h.build(h.retinanet()), dict(lam=0.0)) == dict(
        alpha=1e-3, beta=5e-4, gamma=1e-3, lam=0.0
    )


def test_a_term_without_weight_is_left_out():
    model = h.distiller(h.retinanet(), h.retinanet(), fgd=dict(type='mmkd.FGD', lam=0.0))
    names = {n for n in h.losses_of(model, 'retinanet') if n.startswith('fgd/')}
    assert names == {f'fgd/loss_{n}' for n in ('foreground', 'background', 'attention')}


@pytest.mark.parametrize(
    ('options', 'family', 'words'),
    [
        (dict(alpha=-1.0), 'retinanet', 'alpha=-1.0; needed: a finite number >= 0'),
        (dict(temperature=0.0), 'retinanet', 'temperature=0.0'),
        (
            {},
            'classifier',
            'FGD is for detection, the student (ImageClassifier) does classification',
        ),
    ],
)
def test_wrong_input_is_answered(options, family, words):
    with pytest.raises(InputError) as error:
        h.distiller(
            h.FAMILIES[family](), h.FAMILIES[family](), fgd=dict(type='mmkd.FGD', **options)
        )
    assert words in str(error.value)
