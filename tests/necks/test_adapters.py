"""Features brought to the teacher's shape: projected, resized, or left as they are."""

import pytest
import torch
from torch import nn

from mmkd.errors import InputError
from mmkd.necks.adapters import Adapter, as_map, as_maps, patch_map, resize


def test_channels_are_projected_position_by_position():
    adapter, feature = Adapter(3, 5), torch.randn(2, 3, 4, 4)
    weight, bias = adapter.project.weight[:, :, 0, 0], adapter.project.bias
    expected = torch.einsum('oc,bchw->bohw', weight, feature) + bias[:, None, None]
    torch.testing.assert_close(adapter(feature, (4, 4)), expected)


def test_a_map_that_fits_is_the_same_tensor_and_nothing_is_trained():
    adapter, feature = Adapter(3, 3), torch.randn(2, 3, 4, 4)
    assert adapter(feature, feature.shape[-2:]) is feature
    assert list(adapter.parameters()) == []


def test_a_map_is_resized_before_it_is_projected():
    adapter, feature = Adapter(3, 5), torch.randn(2, 3, 8, 8)
    pooled = nn.functional.avg_pool2d(feature, 2)  # what bilinear halving is
    torch.testing.assert_close(adapter(feature, (4, 4)), adapter.project(pooled))


def test_resizing_interpolates_between_centres():
    got = resize(torch.tensor([[[[0.0, 4.0]]]]), (1, 4))
    assert got.flatten().tolist() == [0.0, 1.0, 3.0, 4.0]


def test_vectors_become_maps_of_one_position():
    vector = torch.randn(2, 8)
    assert torch.equal(as_map(vector)[:, :, 0, 0], vector)


@pytest.mark.parametrize('class_token', [0, 1])
def test_tokens_lie_row_by_row(class_token):
    tokens = torch.arange(2.0 * (9 + class_token) * 4).view(2, 9 + class_token, 4)
    got = as_map(tokens)
    assert got.shape == (2, 4, 3, 3)
    assert torch.equal(got[1, :, 1, 2], tokens[1, class_token + 5])


@pytest.mark.parametrize('shape', [(4,), (2, 8, 15), (2, 1, 3, 4, 4)])
def test_what_is_no_map_is_named(shape):
    with pytest.raises(InputError) as error:
        as_map(torch.zeros(shape), 'the third level')
    words = ['the third level', str(shape), 'no map [B, C, H, W]', 'tools/list_taps.py']
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ('shape', 'image', 'size'),
    [
        ((2, 196, 768), 224, (768, 14, 14)),
        ((2, 768, 196), 224, (768, 14, 14)),  # MLP-Mixer-B
        (
            (2, 1024, 196),
            224,
            (1024, 14, 14),
        ),  # MLP-Mixer-L: 1024 is a square too, of no natural stride
        ((2, 197, 1024), 224, (1024, 14, 14)),  # ViT-L
        ((2, 198, 192), 224, (192, 14, 14)),  # DeiT with a distillation token
        ((2, 3136, 64), 224, (64, 56, 56)),
        ((2, 448, 49), 0, (448, 7, 7)),  # EfficientFormer
    ],
)
def test_tokens_of_either_layout_become_maps(shape, image, size):
    assert tuple(as_map(torch.zeros(shape), image=image).shape) == (2, *size)


def test_tokens_and_channels_are_not_mixed():
    tokens = torch.randn(2, 16, 7)
    assert torch.equal(as_map(tokens.transpose(1, 2)), as_map(tokens))


def test_as_many_tokens_without_a_grid_are_compared_one_by_one():
    student, teacher = torch.randn(2, 12, 7), torch.randn(2, 12, 8)
    ours, theirs = as_maps(student, teacher)
    assert torch.equal(ours[:, :, 3, 0], student[:, 3])
    assert torch.equal(theirs[:, :, 3, 0], teacher[:, 3])
    with pytest.raises(InputError, match=r'\(2, 12, 7\) is no map'):
        as_maps(student, torch.randn(2, 14, 8))


def test_branches_are_each_compared_with_the_teacher():
    branches, teacher = torch.randn(6, 4, 2, 2), torch.randn(2, 4, 2, 2)
    _, theirs = as_maps(branches, teacher)
    assert torch.equal(theirs, torch.cat([teacher] * 3))


@pytest.mark.parametrize('extra', [0, 1, 5])
@pytest.mark.parametrize(
    ('image', 'patch'), [((64, 96), 16), ((800, 1344), 16), ((518, 518), 14), ((224, 672), 14)]
)
def test_patch_tokens_of_any_ratio_become_their_map(image, patch, extra):
    rows, columns = (side // patch for side in image)
    whole = torch.arange(float(rows * columns)).view(1, 1, rows, columns)
    tokens = torch.cat([torch.full((1, extra, 1), -1.0), whole.flatten(2).transpose(1, 2)], 1)
    assert torch.equal(patch_map(tokens, image), whole)
