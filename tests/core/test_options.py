"""Options and their annotations: what fits, what is answered, and wrong values for every option there is."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Optional, TypedDict, Union, get_args, get_origin

import pytest
from helpers import message_of

from mmkd import InputError, Teacher
from mmkd.core.method import method_names
from mmkd.core.options import (
    Above,
    AtLeast,
    Checked,
    Has,
    ReadBy,
    Share,
    annotations_of,
    check_options,
    check_value,
    fits,
    words_of,
)


class Colours(TypedDict, total=False):
    red: Annotated[float, AtLeast(0)]
    blue: int


def even(value):
    if value % 2:
        raise InputError(f'{value} is odd')


Even = Annotated[Any, ReadBy(even, 'an even number')]
NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize(
    ('annotation', 'right', 'wrong'),
    [
        (float, [0, -1, 2.5], [NAN, INF, -INF, True, '1', None, [1.0]]),
        (int, [0, -1], [1.0, 0.5, True, '1', None]),
        (bool, [True, False], [0, 1, 'True', None]),
        (str, ['', 'a'], [0, None, b'a', ['a']]),
        (Annotated[float, Above(0)], [1e-9, 3], [0, -1.0, NAN]),
        (Annotated[int, AtLeast(1)], [1, 9], [0, 1.5, -1]),
        (Annotated[float, Share()], [0, 0.5, 1], [-0.1, 1.1, NAN]),
        (Annotated[float, Share(open=True)], [0, 0.999], [1]),
        (Literal['a', 'b'], ['a'], ['c', 'A', 0, None]),
        (Literal[1, 2], [1], [True, '1', 1.0, 3]),
        (Optional[int], [None, 1], ['x', 1.0]),
        (int | None, [None, 1], ['x', 1.0]),
        (Union[int, Literal['auto']], [1, 'auto'], ['autoo', 1.5]),
        (Sequence[int], [[], [1], (1, 2)], ['12', [1.5], 3, None]),
        (Mapping[str, int], [{}, {'a': 1}], [{'a': 'x'}, [1], None]),
        (Annotated[Mapping[str, Any], Has('type')], [{'type': 1}], [{}, {'tpye': 1}, 'type']),
        (Colours, [{}, {'red': 0.5}], [{'green': 1}, {'red': -1}, 3]),
        (Even, [0, 4], [3, 'x']),
        (Any, [None, NAN, object()], []),
    ],
)  # fmt: skip
def test_what_fits_an_annotation(annotation, right, wrong):
    assert [value for value in right if not fits(value, annotation)] == []
    assert [value for value in wrong if fits(value, annotation)] == []
    for value in right:
        check_value('here', value, annotation)
    for value in wrong:
        with pytest.raises(InputError, match='here'):
            check_value('here', value, annotation)


@pytest.mark.parametrize(
    ('value', 'annotation', 'message'),
    [
        ('abc', float, "x='abc'; needed: a finite number"),
        (0, Annotated[float, Above(0)], 'x=0; needed: a finite number above 0'),
        (1.5, Annotated[int, AtLeast(1)] | None, 'x=1.5; needed: a whole number >= 1 or None'),
        ('aut', Literal['auto', 'none'], "x='aut'; nearest: 'auto'"),
        (3, Literal['auto', 'none'], "x=3; needed: 'auto', 'none'"),
        (dict(green=1), Colours, "x: unknown option 'green'; nearest: 'red'"),
        (dict(red=-1), Colours, 'x.red=-1; needed: a finite number >= 0'),
        (3, Even, 'x=3: 3 is odd'),
        ('x', Even, "x='x': needed: an even number"),
        ([1, 'a'], Sequence[int], "x=[1, 'a']; needed: a list of which each is a whole number"),
        (dict(a=1), Annotated[Mapping[str, Any], Has('type')], "x={'a': 1}; needed: a dict with type=..."),
    ],
)  # fmt: skip
def test_a_message_names_option_value_and_what_is_right(value, annotation, message):
    with pytest.raises(InputError) as error:
        check_value('x', value, annotation)
    assert str(error.value) == message


def test_a_long_value_is_cut():
    with pytest.raises(InputError) as error:
        check_value('x', list(range(1000)), int)
    assert len(str(error.value)) < 160


def test_of_a_class_those_of_its_bases_count_and_names_decide():
    class Base(Checked):
        def __init__(self, weight: float = 1.0, kind: str = 'a') -> None: ...

    class Own(Base):
        option_owner = 'own'

        def __init__(self, depth: int, kind: Literal['a', 'b'] = 'a', **options: Any) -> None: ...

    assert annotations_of(Own) == dict(weight=float, kind=Literal['a', 'b'], depth=int)
    assert isinstance(Own(3, weight=2.0), Own)
    for values, options, words in (
        ((1.5,), {}, 'own: depth=1.5'),
        ((1,), dict(weight=NAN), 'own: weight=nan'),
        ((1, 'c'), {}, "own: kind='c'"),
    ):
        with pytest.raises(InputError, match=words):
            Own(*values, **options)


def test_options_that_the_taker_does_not_have_are_not_looked_at():
    def taker(a: int) -> None: ...

    check_options('x', taker, dict(a=1, b=object()))


# -- every option of every method and of the teacher -------------------------------------------------

TAKERS = {**method_names(), 'teacher': Teacher}
OPTIONS = [(name, option) for name, taker in TAKERS.items() for option in annotations_of(taker)]
ANYTHING: dict[tuple[str, str], str] = {}
"""Options annotated ``Any``, each with the reason why nothing can be said of it."""

POOL = [
    'abc', '', b'x', -1, 0, 1.5, -0.5, 2**40, True, None, NAN, INF, -INF, [], ['abc'], [NAN], [-1], [None],
    [[]], {}, {'abc': 1}, {'type': None}, {1: 2}, object(), (), lambda: None,
]  # fmt: skip
"""Values of which most are wrong for any option."""


def surely_wrong(value: Any, annotation: Any) -> bool:
    """Whether a value is wrong by the plain words of an annotation, judged apart from the code under test.

    Where that is not sure the answer is no.
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return surely_wrong(value, inner[0]) or any(broken(value, need) for need in inner[1:])
    if origin in (Union, type(int | None)):
        return all(surely_wrong(value, member) for member in inner)
    if annotation is type(None):
        return value is not None
    if annotation in (float, int):
        number = type(value) in (float, int) and math.isfinite(value)
        return not number or (annotation is int and type(value) is float)
    if annotation in (bool, str):
        return type(value) is not annotation
    if origin is Literal:
        return value not in inner
    if origin is not None and issubclass(origin, Mapping):
        return not isinstance(value, dict)
    if origin is not None and issubclass(origin, Sequence):
        listed = isinstance(value, (list, tuple))
        return not listed or any(surely_wrong(item, inner[0]) for item in value)
    if hasattr(annotation, '__total__'):
        return not isinstance(value, dict) or not set(value) <= set(annotation.__annotations__)
    return annotation is not Any and not isinstance(value, annotation)


def broken(value: Any, need: Any) -> bool:
    """Whether a bound is not kept; of what a function reads, what no spec is made of."""
    number = type(value) in (float, int) and math.isfinite(value)
    if isinstance(need, (Above, AtLeast)):
        return number and (value < need.bound or (isinstance(need, Above) and value == need.bound))
    if isinstance(need, Share):
        return number and not 0 <= value <= 1
    if isinstance(need, Has):
        return isinstance(value, dict) and need.key not in value
    return isinstance(need, ReadBy) and (isinstance(value, bytes) or value in ([], [None]))


def built(taker: Any, option: str, value: Any) -> Any:
    needed = dict(config=dict(type='X')) if taker is Teacher else {}
    return taker(**{**needed, option: value})


@pytest.mark.parametrize(('name', 'option'), OPTIONS, ids=map('.'.join, OPTIONS))
def test_wrong_values_of_every_option_name_owner_option_and_value(name, option):
    taker = TAKERS[name]
    annotation = annotations_of(taker)[option]
    if annotation is Any:
        assert ANYTHING[name, option]
        return
    owner = taker.option_owner or taker.__name__
    wrong = [value for value in POOL if surely_wrong(value, annotation)]
    assert len(wrong) >= 3, f'{annotation}: nothing in the pool is wrong for it'
    for value in wrong:
        message = message_of(built, taker, option, value)
        assert message.startswith(f'{owner}: {option}'), (value, message)
        assert shown(value) in message, (value, message)


def shown(value: Any) -> str:
    """What of a value a message must have: all of it, or of dicts a key."""
    if isinstance(value, dict) and value:
        return str(next(iter(value)))
    return '' if callable(value) or type(value) is object else repr(value)[:40]


def test_reasons_are_given_for_options_there_are():
    assert [key for key in ANYTHING if annotations_of(TAKERS[key[0]]).get(key[1]) is not Any] == []


def test_every_signature_is_read():
    """A signature that cannot be evaluated would make every option Any."""
    for name, option in OPTIONS:
        found = annotations_of(TAKERS[name])[option]
        assert found is not Any or (name, option) in ANYTHING, f'{name}.{option} has no annotation'
    assert not isinstance(words_of(annotations_of(Teacher)['precision']), Callable)
