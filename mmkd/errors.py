"""One kind of error for wrong input, and the words that help to mend it."""

from __future__ import annotations

import difflib
import os
import re
import traceback
from collections.abc import Iterable
from pathlib import Path

from mmengine import registry

UNREGISTERED = re.compile(r'(\w[\w.]*) is not in the \w+::([\w ]+) registry')
"""How mmengine says that a config names something that nobody has registered."""


class InputError(ValueError):
    """A wrong option, value or file.

    The message names the option, the value and what would be right. The tools print it without a
    traceback and leave with exit status 2.
    """


def nearest(name: str, known: Iterable[str], limit: int = 5) -> str:
    """Say which known names come nearest to a wrong one.

    >>> nearest('nek', ['backbone', 'neck'])
    "nearest: 'neck'"
    >>> nearest('zzz', ['backbone', 'neck'])
    "known: 'backbone', 'neck'"
    """
    names = sorted({str(item) for item in known})
    close = difflib.get_close_matches(str(name), names, n=limit, cutoff=0.5)
    shown = close or names[: 4 * limit]
    return ('nearest: ' if close else 'known: ') + ', '.join(repr(item) for item in shown)


def reason_of(error: BaseException) -> str:
    """What an error of other code says, and where it was raised, on one line.

    >>> reason_of(KeyError('RandomFlipp'))
    "KeyError: 'RandomFlipp'"
    """
    text = ' '.join(f'{type(error).__name__}: {error}'.split())
    if found := UNREGISTERED.search(text):
        text = f'{found[0]}; {nearest(found[1], _registered(found[2]))}'
    frames = traceback.extract_tb(error.__traceback__)
    outside = (str(Path(__file__).parent), 'site-packages', os.path.dirname(os.__file__))
    own = [
        frame for frame in frames if not any(part in frame.filename for part in outside)
    ] or frames
    place = f' ({Path(own[-1].filename).name}, line {own[-1].lineno})' if own else ''
    return f'{text[:400]}{place}'


def _registered(kind: str) -> set[str]:
    """All names that registries of a kind know."""
    roots = [
        r for r in vars(registry).values() if isinstance(r, registry.Registry) and r.name == kind
    ]
    return {name for r in roots for one in (r, *r.children.values()) for name in one.module_dict}


def refuse_unknown(where: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Answer a wrong option with the nearest right ones.

    >>> refuse_unknown('methods.pkd', ['wieght'], ['weight', 'tap'])
    Traceback (most recent call last):
    ...
    mmkd.errors.InputError: methods.pkd: unknown option 'wieght'; nearest: 'weight'
    """
    names = set(known)
    for option in options:
        if option not in names:
            raise InputError(f'{where}: unknown option {option!r}; {nearest(option, names)}')


def refuse_other(option: str, value: object, known: Iterable[str]) -> None:
    """Answer a value that is none of the known ones with the nearest.

    >>> refuse_other('SFR: solver', 'exakt', ['sinkhorn', 'exact'])
    Traceback (most recent call last):
    ...
    mmkd.errors.InputError: SFR: solver='exakt'; nearest: 'exact'
    """
    names = list(known)
    if value not in names:
        raise InputError(f'{option}={value!r}; {nearest(str(value), names)}')
