"""Words that help to mend wrong input."""

import pytest
from helpers import message_of

from mmkd.errors import InputError, nearest, refuse_other, refuse_unknown

NAMES = [f'layer{number:02}' for number in range(30)]


def test_wrong_input_is_a_wrong_value():
    """Whoever catches ValueError catches it."""
    assert issubclass(InputError, ValueError)


def test_near_names_come_with_the_nearest_first_and_five_at_most():
    assert nearest('layer1', ['stem', 'layer1x', 'layr']) == "nearest: 'layer1x', 'layr'"
    assert nearest('layer', NAMES).count('layer') == 5
    assert nearest('layer', NAMES, limit=2).count('layer') == 2


def test_where_none_is_near_the_first_twenty_are_shown():
    assert nearest('zzz', ['b', 'a', 'b']) == "known: 'a', 'b'"
    assert nearest('zzz', NAMES) == 'known: ' + ', '.join(map(repr, NAMES[:20]))


def test_the_first_option_that_is_not_known_is_named():
    refuse_unknown('here', ['weight'], ['weight', 'tap'])
    text = message_of(refuse_unknown, 'here', ['weight', 'tpa', 'x'], iter(['weight', 'tap']))
    assert text == "here: unknown option 'tpa'; nearest: 'tap'"


@pytest.mark.parametrize('value', ['a', 3, None])
def test_a_value_that_is_none_of_the_known_is_named(value):
    refuse_other('here: mode', 'sum', ['mean', 'sum'])
    text = message_of(refuse_other, 'here: mode', value, iter(['mean', 'sum']))
    assert text == f"here: mode={value!r}; known: 'mean', 'sum'"
