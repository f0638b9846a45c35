"""One kind of error for wrong input, and the words that help to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=limit, cutoff=0.5)
    shown = close or names[: 4 * limit]
    return ('nearest: ' if close else 'known: ') + ', '.join(repr(item) for item in shown)


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
