import math

import pytest
from mmengine.logging import MessageHub

from mmkd import InputError
from mmkd.core.schedules import CutOff, Piecewise, Ramp, build_schedule, progress


def test_ramp_is_flat_outside_and_follows_its_shape_inside():
    assert [Ramp(4.0, 0.2, 0.6)(x) for x in (0.0, 0.2, 0.3, 0.6, 1.0)] == pytest.approx(
        [0, 0, 1, 4, 4]
    )
    assert Ramp(2.0, 0, 1, start=1.0)(0.5) == 1.5
    assert Ramp(2.0, 0, 1, shape='cosine')(0.25) == pytest.approx(1 - math.cos(math.pi / 4))
    assert Ramp(2.0, 0, 1, shape='sigmoid')(0.5) == pytest.approx(2 * math.exp(-5 / 4))


def test_sigmoid_ramp_is_zero_before_it_begins():
    ramp = Ramp(1.0, begin=2 / 3, until=1.0, shape='sigmoid')
    assert ramp(0.66) == 0
    assert ramp(2 / 3) == pytest.approx(math.exp(-5))


def test_piecewise_interpolates_between_points():
    schedule = Piecewise([(0.1, 0.0), (0.2, 2.0), (0.8, 2.0), (1.0, 0.0)])
    values = [schedule(x) for x in (0.0, 0.15, 0.5, 0.9, 1.0)]
    assert values == pytest.approx([0.0, 1.0, 2.0, 1.0, 0.0])


def test_a_config_becomes_a_schedule():
    assert build_schedule(2)(0.3) == 2.0
    assert build_schedule(dict(type='mmkd.Ramp', value=1.0, until=0.5))(0.25) == 0.5
    assert build_schedule(lambda x: x)(0.7) == 0.7
    assert isinstance(build_schedule(dict(type='CutOff', value=1.0, at=0.5)), CutOff)


@pytest.mark.parametrize(
    ('weight', 'words'),
    [
        (-1.0, ['-1.0', '>= 0']),
        (float('nan'), ['nan', 'finite']),
        ('2', ["'2'", 'number']),
        (True, ['True', 'number']),
        (dict(type='Ramp', value=-2.0), ['-2.0', '>= 0']),
        (dict(type='Rmap', value=1.0), ['Rmap', "'Ramp'"]),
        (dict(type='Ramp', vaule=1.0), ['Ramp', 'vaule']),
        (dict(type='Ramp', value=1.0, begin=0.5, until=0.1), ['begin=0.5', 'until=0.1']),
        (dict(type='Ramp', value=1.0, shape='cosin'), ['cosin', "'cosine'"]),
        (dict(type='CutOff', value=1.0, at=2.0), ['at=2.0']),
        (dict(type='Piecewise', points=[(0.5, 1.0), (0.1, 1.0)]), ['points', 'rising']),
    ],
)
def test_wrong_weights_are_named(weight, words):
    with pytest.raises(InputError) as error:
        build_schedule(weight)
    assert all(word in str(error.value) for word in words)


def test_progress_follows_the_runner():
    hub = MessageHub.get_instance('progress')
    assert progress() == 0
    hub.update_info('max_iters', 200)
    hub.update_info('iter', 50)
    assert progress() == 0.25
    hub.update_info('iter', 300)
    assert progress() == 1.0
    hub.update_info('max_iters', 0)
