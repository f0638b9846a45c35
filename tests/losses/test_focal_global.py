"""Masks, attention and the focal distance of FGD, against loops over cells."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from mmkd.losses.focal_global import (
    background_mask,
    channel_attention,
    focal_distance,
    foreground_mask,
    spatial_attention,
)

BOXES = [
    torch.tensor([[3.0, 5.0, 30.0, 40.0], [10.0, 8.0, 20.0, 17.0], [60.0, 2.0, 64.0, 9.0]]),
    torch.zeros(0, 4),
]


def maps(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 6, 4, 5, generator=generator, dtype=torch.float64)


def mask_in_loops(boxes, size, image):
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
    assert torch.allclose(mask, mask_in_loops(boxes, size, (48, 64)), atol=1e-7)
    background = background_mask(mask[None])[0]
    cells = (mask == 0).sum()
    assert torch.allclose(background, (mask == 0) / max(int(cells), 1))


def test_objects_everywhere_leave_no_background():
    assert background_mask(torch.full((2, 3, 3), 0.1)).sum() == 0


@pytest.mark.parametrize('temperature', [0.5, 2.0])
def test_attention(temperature):
    both = maps()
    spatial, channel = (a(both, temperature) for a in (spatial_attention, channel_attention))
    for image in range(2):
        cells = [[both[image, :, i, j].abs().mean() for j in range(5)] for i in range(4)]
        powers = (torch.tensor(cells).double() / temperature).exp()
        torch.testing.assert_close(spatial[image], 4 * 5 * powers / powers.sum(), rtol=1e-6, atol=0)
        strength = torch.tensor([both[image, c].abs().mean() for c in range(6)]).double()
        powers = (strength / temperature).exp()
        torch.testing.assert_close(channel[image], 6 * powers / powers.sum(), rtol=1e-6, atol=0)


def weighting():
    """A teacher with its attentions, and a mask."""
    teacher = maps(1)
    mask = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return teacher, spatial_attention(teacher, 0.5), channel_attention(teacher, 0.5), mask


def test_the_focal_distance():
    student, (teacher, spatial, channel, mask) = maps(), weighting()
    expected = 0.0
    for b in range(2):
        for c in range(6):
            for i in range(4):
                for j in range(5):
                    squared = (student[b, c, i, j] - teacher[b, c, i, j]) ** 2
                    expected += squared * spatial[b, i, j] * channel[b, c] * mask[b, i, j] / 2
    got = focal_distance(student, teacher, spatial, channel, mask)
    assert got.item() == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(
    'function',
    [
        lambda student: focal_distance(student, *weighting()),
        lambda student: spatial_attention(student, 0.5),
        lambda student: channel_attention(student, 0.5),
    ],
    ids=['distance', 'spatial', 'channel'],
)
def test_gradients_by_finite_differences(function):
    assert gradcheck(function, maps().requires_grad_(), eps=1e-6, atol=1e-7)
