"""What networks of other packages have in common: sizes of images, levels, names."""

import helpers as h
import pytest
import torch
from torch import nn

from mmkd import InputError, Teacher
from mmkd.family import outside
from mmkd.family.building import load_config
from mmkd.family.outside import Levels, OutsideBackbone, folded, outside_config, scaled


class Net(nn.Module):
    """Two levels; takes what a test says."""

    def __init__(self, takes):
        super().__init__()
        self.takes, self.seen = takes, []

    def forward(self, images):
        size = tuple(images.shape[-2:])
        self.seen.append(size)
        if not self.takes(size):
            raise RuntimeError('not this size')
        return [nn.functional.avg_pool2d(images, side) for side in (8, 8, 16)]


class Some(Levels):
    def maps(self, images):
        maps = self.net(images)
        return maps if self.indices is None else [maps[i] for i in self.indices]


def levels(takes=lambda size: True, patch=None, **options):
    return Some(Net(takes), (64, 64), patch, **options)


@pytest.mark.parametrize(
    ('takes', 'patch', 'image', 'size'),
    [
        (lambda size: True, None, (50, 70), (50, 70)),
        (lambda size: size[0] % 14 == size[1] % 14 == 0, 14, (50, 70), (56, 70)),
        (lambda size: size[0] % 32 == size[1] % 32 == 0, None, (50, 70), (64, 64)),
        (lambda size: size == (64, 64), 16, (50, 70), (64, 64)),
    ],
    ids=['any', 'patches', 'strides', 'one'],
)
def test_images_are_made_to_fit_what_the_network_takes(takes, patch, image, size):
    net = levels(takes, patch)
    net(torch.randn(1, 3, *image))
    assert net.net.seen[-1] == size


def test_an_image_that_fits_is_handed_over_as_it_is():
    net, image = levels(patch=16), torch.randn(1, 3, 64, 96)
    assert net.fitted(image) is image


def test_by_default_the_deepest_level_of_each_size_is_given():
    assert levels().indices == [1, 2]
    assert levels(indices=[0, 2]).indices == [0, 2]


def test_wrong_levels_are_named():
    for wrong in ([3], [-1], []):
        assert f'out_indices={wrong}; needed: numbers from 0 to 2' in h.message_of(
            lambda wrong=wrong: levels(indices=wrong)
        )


def test_a_network_that_gives_no_maps_is_named():
    message = h.message_of(lambda: levels(lambda size: False))
    assert 'teacher Net: gives no maps of an image of 64x64 px' in message
    assert 'not this size' in message


def test_tokens_lie_row_by_row_behind_class_and_register_tokens():
    tokens = torch.arange(5 + 6.0).view(1, 11, 1)
    assert folded(tokens, (32, 48), 16)[0, 0].tolist() == [[5, 6, 7], [8, 9, 10]]
    with pytest.raises(InputError, match=r'7 tokens of an image of 64x64 px'):
        folded(torch.zeros(1, 7, 4), (64, 64), 16)


def test_pixels_are_of_0_to_255():
    assert scaled([0.5, 0.25, 1.0], 255.0) == [127.5, 63.75, 255.0]


@pytest.mark.parametrize('prefix', outside.PACKAGES)
def test_a_name_becomes_the_config_of_a_teacher_everywhere(prefix):
    config = load_config(f'{prefix}::some/model').model
    assert config == outside_config(f'{prefix}::some/model')
    assert config.model == 'some/model'


@pytest.mark.parametrize('prefix', outside.PACKAGES)
def test_a_package_that_is_absent_is_one_sentence(prefix, monkeypatch):
    def absent(name):
        raise ImportError(f'No module named {name!r}')

    monkeypatch.setattr(outside, 'import_module', absent)
    message = h.message_of(Teacher, f'{prefix}::model', 'untrained')
    assert f'needs the package {outside.PACKAGES[prefix][1]}' in message
    assert 'pip install' in message


def test_batch_norms_are_not_folded():
    h.outside('timm')
    message = h.message_of(lambda: Teacher('timm::test_resnet', 'untrained', fuse=True))
    assert 'fuse=True: BatchNorms of timm test_resnet may hold activations' in message


def test_neither_losses_nor_predictions():
    model = OutsideBackbone(levels(), [0.0] * 3, [1.0] * 3)
    assert [m.shape[-1] for m in model(torch.randn(1, 3, 32, 32), mode='loss')] == [4, 2]
