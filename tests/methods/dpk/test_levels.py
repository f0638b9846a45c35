"""Strides and names of the levels into which DPK injects."""

import pytest
from torch import Size, nn

from mmkd.core.step import Side
from mmkd.errors import InputError
from mmkd.family.taps import Tap
from mmkd.methods.dpk.levels import names_of, strides_of


def side(**shapes):
    """A network with some shapes at its taps, for an image of 128 pixels."""
    taps = {Tap(at.replace('_', '.')): values for at, values in shapes.items()}
    return Side(nn.Identity(), {}, taps, 'the student', 128), list(taps)


def test_strides_are_those_of_the_image_rounded_to_powers_of_two():
    maps = [Size((1, 8, n, n)) for n in (16, 8, 5)]
    assert strides_of(*side(neck=maps)) == [8, 16, 32]


def test_a_level_without_a_grid_is_refused():
    with pytest.raises(
        InputError, match=r"tap 'neck' level 0 of the student is a vector \(1, 8\), a 1x1 map"
    ):
        strides_of(*side(neck=[Size((1, 8))]))


def test_a_detectors_levels_are_called_by_their_strides_a_classifiers_by_their_stages():
    maps = [Size((1, 8, n, n)) for n in (16, 8)]
    assert names_of([8, 16], *side(neck=maps), detection=True) == ['P3', 'P4']
    stages = side(backbone_layer3=maps[:1], backbone_layer4=maps[1:])
    assert names_of([8, 16], *stages, detection=False) == ['layer3', 'layer4']
    assert names_of([8, 8], *side(backbone_stages_1=maps), detection=True) == [
        'stage1.0',
        'stage1.1',
    ]
