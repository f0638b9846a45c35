"""Levels of two networks, paired by stride."""

import helpers as h
import pytest
from torch import Size

from mmkd import Tap
from mmkd.core.levels import alike, pair_by_stride
from mmkd.core.step import Side

NECK = Tap('neck')


def side(strides, model='retinanet', tap=NECK, image=128):
    shapes = {tap: [Size((1, 4, image // s, image // s)) for s in strides]}
    return Side(h.build(h.FAMILIES[model]()), {}, shapes, 'the side', image)


def paired(ours, theirs, model='retinanet'):
    student, teacher = side(ours, model), side(theirs, model)
    new = pair_by_stride('X', student, teacher, [NECK], [NECK])
    for one, taps in zip((student, teacher), new):
        assert all(len(one.shapes[tap]) == len(tap.levels or one.shapes[tap]) for tap in taps)
    return [[tap.levels and tap.levels[0] for tap in taps] for taps in new]


ORDER = [[None], [None]]


@pytest.mark.parametrize(
    ('ours', 'theirs', 'expected'),
    [
        ([8, 16, 32], [8, 16, 32], ORDER),
        ([8, 16, 32, 64, 128], [4, 8, 16, 32, 64], [[0, 1, 2, 3], [1, 2, 3, 4]]),
        ([8, 16, 32], [4, 8, 16, 32], [[0, 1, 2], [1, 2, 3]]),
        ([8, 16, 32], [16] * 12, [[1], [11]]),
        ([8, 16, 32], [14], [[1], [0]]),
        ([32, 64], [8, 16], [[0], [1]]),
        ([32], [4, 8, 16, 32], [[0], [3]]),
        ([4, 8, 8, 8], [4, 8, 16, 32], ORDER),  # dilated stages are those of the same depth
    ],
)
def test_levels_of_equal_stride_go_together(ours, theirs, expected):
    assert paired(ours, theirs) == expected


def test_stages_of_classifiers_go_together_in_order_where_they_are_as_many():
    assert paired([2, 4, 8], [4, 8, 16], 'classifier') == ORDER
    assert paired([8, 16, 32], [4, 8, 16, 32], 'classifier') == [[0, 1, 2], [1, 2, 3]]


def test_levels_that_are_chosen_stay_as_they_are_where_they_are_as_many():
    chosen = Tap('neck', levels=(0, 1))
    student, teacher = side([8, 16], tap=chosen), side([16, 32], tap=chosen)
    assert pair_by_stride('X', student, teacher, [chosen], [chosen]) == ([chosen], [chosen])


def test_what_is_no_map_stays_as_it_is():
    tokens = {NECK: [Size((1, 7, 8))] * 2}
    odd = Side(h.build(h.retinanet()), {}, tokens, 'the side', 128)
    assert pair_by_stride('X', odd, side([8]), [NECK], [NECK]) == ([NECK], [NECK])


def test_the_nearest_pair_is_the_deepest_of_two():
    assert alike([3, 5], [4]) == [(1, 0)]
