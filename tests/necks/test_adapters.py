"""Features brought to the teacher's shape: projected, resized, or left as they are."""

import pytest
import torch
from torch import nn

from mmkd.errors import InputError
from mmkd.necks.adapters import Adapter, as_map, resize


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


@pytest.mark.parametrize('shape', [(4,), (2, 8, 16), (2, 1, 3, 4, 4)])
def test_what_is_no_map_is_named(shape):
    with pytest.raises(InputError) as error:
        as_map(torch.zeros(shape), 'the third level')
    words = ['the third level', str(shape), 'no map [B, C, H, W]', 'tools/list_taps.py']
    assert all(word in str(error.value) for word in words)
