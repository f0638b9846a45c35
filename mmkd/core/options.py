"""Options checked against their annotations: a wrong one is answered with its name, value and what is right.

What takes options says in its signature what they may be: ``float``, ``int`` (``bool`` is none of
them, and no number may be NaN or infinite), ``Literal['a', 'b']``, ``Sequence[int]``, a TypedDict, and
``Annotated`` with the bounds below. So nothing else writes such checks by hand.
"""

from __future__ import annotations

import functools
import inspect
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import InputError, nearest, refuse_unknown

UNREADABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError)
PLAIN = {float: 'a finite number', int: 'a whole number', bool: 'True or False', str: 'a text'}


@dataclass(frozen=True)
class Above:
    """A bound that is not reached.

    >>> check_value('temperature', 0, Annotated[float, Above(0)])
    Traceback (most recent call last):
    ...
    mmkd.errors.InputError: temperature=0; needed: a finite number above 0
    """

    bound: float

    def holds(self, value: Any) -> bool:
        """Whether a value is right."""
        return value > self.bound

    def __str__(self) -> str:
        return f'above {self.bound:g}'


@dataclass(frozen=True)
class AtLeast:
    """A bound that may be reached."""

    bound: float

    def holds(self, value: Any) -> bool:
        """Whether a value is right."""
        return value >= self.bound

    def __str__(self) -> str:
        return f'>= {self.bound:g}'


@dataclass(frozen=True)
class Share:
    """A part of a whole; of ``Share(open=True)`` never the whole."""

    open: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a value is right."""
        return 0 <= value < 1 if self.open else 0 <= value <= 1

    def __str__(self) -> str:
        return 'in [0, 1)' if self.open else 'in [0, 1]'


@dataclass(frozen=True)
class Has:
    """A key that a dict must have."""

    key: str

    def holds(self, value: Any) -> bool:
        """Whether a value is right."""
        return self.key in value

    def __str__(self) -> str:
        return f'with {self.key}=...'


@dataclass(frozen=True)
class ReadBy:
    """What a function can read; the function's own answer is given if it cannot.

    Attributes:
        function: it raises if a value is wrong.
        words: what is right.
    """

    function: Callable[[Any], Any]
    words: str

    def holds(self, value: Any) -> bool:
        """Whether a value is right."""
        return self.reason(value) is None

    def reason(self, value: Any) -> str | None:
        """Why a value cannot be read; None if it can."""
        try:
            self.function(value)
        except InputError as error:
            return str(error)
        except UNREADABLE:
            return f'needed: {self.words}'
        return None

    def __str__(self) -> str:
        return self.words


Positive = Annotated[float, Above(0)]
NonNegative = Annotated[float, AtLeast(0)]
Count = Annotated[int, AtLeast(1)]


class Checked:
    """To be put before a base class: what an object is built with is checked before it is built."""

    option_owner: ClassVar[str] = ''
    """How messages call what takes the options; by default the class."""

    def __new__(cls, /, *values: Any, **options: Any) -> Any:
        """Check the options against the annotations of the class and its bases."""
        names = list(inspect.signature(cls.__init__).parameters)[1:]
        check_options(cls.option_owner or cls.__name__, cls, dict(zip(names, values)) | options)
        return super().__new__(cls)


def check_options(owner: str, taker: Any, options: Mapping[str, Any]) -> None:
    """Answer options that are not what their annotations say.

    Args:
        owner: how the message begins.
        taker: the class or function that takes the options.
        options: by name; those that the taker does not have are not looked at.
    """
    annotations = annotations_of(taker)
    for name, value in options.items():
        check_value(f'{owner}: {name}', value, annotations.get(name, Any))


@functools.cache
def annotations_of(taker: Any) -> dict[str, Any]:
    """What each option may be, the options of base classes included.

    >>> class Base:
    ...     def __init__(self, weight: float = 1.0) -> None: ...
    >>> class Method(Base):
    ...     def __init__(self, depth: int, **options) -> None: ...
    >>> annotations_of(Method)
    {'weight': <class 'float'>, 'depth': <class 'int'>}
    """
    if not inspect.isclass(taker):
        return _own_annotations(taker)
    found: dict[str, Any] = {}
    for base in reversed(taker.__mro__[:-1]):
        if '__init__' in vars(base):
            found |= _own_annotations(vars(base)['__init__'])
    return found


def check_value(where: str, value: Any, annotation: Any) -> None:
    """Answer a value that is not what an annotation says.

    >>> check_value('KD: temperature', float('nan'), float)
    Traceback (most recent call last):
    ...
    mmkd.errors.InputError: KD: temperature=nan; needed: a finite number
    """
    if fits(value, annotation):
        return
    members = [member for member in _members(annotation) if member is not type(None)]
    inner = _typed_dict(members)
    if inner is not None and isinstance(value, Mapping):
        refuse_unknown(where, value, inner)
        for name, item in value.items():
            check_value(f'{where}.{name}', item, inner[name])
    shown = f'{where}={_shown(value)}'
    for need in (need for member in members for need in _needs(member)):
        if isinstance(need, ReadBy):
            raise InputError(f'{shown}: {need.reason(value)}')
    if isinstance(value, str) and all(get_origin(member) is Literal for member in members):
        raise InputError(f'{shown}; {nearest(value, map(str, _choices(members)))}')
    raise InputError(f'{shown}; needed: {words_of(annotation)}')


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value is what an annotation says.

    >>> fits(True, int), fits(2, float), fits([1, 2.5], Sequence[int]), fits(None, Union[int, None])
    (False, True, False, True)
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return True
    if origin is Annotated:
        return fits(value, inner[0]) and all(need.holds(value) for need in _needs(annotation))
    if len(members := _members(annotation)) > 1:
        return any(fits(value, member) for member in members)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if annotation in (float, int):
        kind = Real if annotation is float else Integral
        return (
            isinstance(value, kind) and not isinstance(value, bool) and -math.inf < value < math.inf  # type: ignore[operator]
        )
    if (keys := _typed_dict([annotation])) is not None:
        return isinstance(value, Mapping) and all(
            name in keys and fits(item, keys[name]) for name, item in value.items()
        )
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(item, inner[1]) for item in value.values())
    if origin is not None and issubclass(origin, Sequence):
        return isinstance(value, (list, tuple)) and all(fits(item, inner[0]) for item in value)
    return isinstance(value, annotation)


def words_of(annotation: Any) -> str:
    """What an annotation says, in words.

    >>> words_of(Union[Annotated[int, AtLeast(1)], Sequence[int], None])
    'a whole number >= 1, a list of which each is a whole number, or None'
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        needs = [str(need) for need in _needs(annotation)]
        base = '' if inner[0] is Any else _bare_words(inner[0])
        return ' and '.join([f'{base} {needs[0]}'.strip(), *needs[1:]])
    if len(members := _members(annotation)) > 1:
        *first, last = [words_of(member) for member in members]
        return ', '.join(first) + (', or ' if len(first) > 1 else ' or ') + last
    return _bare_words(annotation)


def _bare_words(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return 'None'
    if annotation in PLAIN:
        return PLAIN[annotation]
    if origin is Literal:
        return ', '.join(map(repr, inner))
    if (keys := _typed_dict([annotation])) is not None:
        return f'a dict of {", ".join(keys)}'
    if origin is not None and issubclass(origin, Mapping):
        return 'a dict'
    if origin is not None:
        return 'a list' + ('' if inner[0] is Any else f' of which each is {words_of(inner[0])}')
    return f'a {annotation.__name__}'


def _own_annotations(function: Any) -> dict[str, Any]:
    """Those of one signature; one that this Python cannot evaluate says nothing."""
    try:
        found = get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        found = {}
    parameters = inspect.signature(function).parameters.values()
    named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {name: found.get(name, Any) for name in named if name != 'self'}


def _members(annotation: Any) -> list[Any]:
    """The members of a union, however it is written; of anything else the thing itself."""
    union = get_origin(annotation) is Union or type(annotation).__name__ == 'UnionType'
    return list(get_args(annotation)) if union else [annotation]


def _needs(annotation: Any) -> Iterable[Any]:
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def _choices(members: Iterable[Any]) -> list[Any]:
    return [choice for member in members for choice in get_args(member)]


def _typed_dict(members: Iterable[Any]) -> dict[str, Any] | None:
    """What a TypedDict among some annotations says of its keys."""
    for member in members:
        if hasattr(member, '__total__'):
            return get_type_hints(member, include_extras=True)
    return None


def _shown(value: Any) -> str:
    """A value on one line, long ones cut."""
    if isinstance(value, (list, tuple, Mapping)):
        plain = dict(value) if isinstance(value, Mapping) else value
        return repr(plain) if len(repr(plain)) <= 100 else reprlib.repr(plain)
    return repr(value) if len(repr(value)) <= 100 else f'{repr(value)[:100]}...'
