"""No checkpoint executes code in a process that has imported mmkd, whoever loads it, unless files are trusted.

Three things are done once, by :func:`protect`, which ``import mmkd`` calls before all else:

- torch is told to read every file with its restricted unpickler, whatever the caller asks for;
- what mmengine's checkpoints hold besides tensors is allowed, with stand-ins for what could do more;
- mmengine's own list is emptied: it has ``getattr``, from which a file reaches every function of Python.

mmengine's loader (``load_from``, ``init_cfg``, resuming) goes through :mod:`mmkd.files.checkpoints` besides.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mmengine.runner.checkpoint
import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleParamScheduler

FORCE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
"""With this set, no ``torch.load`` of the process and of those it starts unpickles without restriction."""

UNFORCE = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
"""The opposite; torch refuses to read anything where both are set."""

TRUST = (
    'if you know who made it and trust them: --trust-checkpoint (trust_checkpoint=True of a teacher, '
    'mmkd.trusting() in Python)'
)
"""What to do about a file that is refused."""

_trusted_scopes = 0


def protect() -> None:
    """Let no checkpoint execute code from now on; within :func:`trusting` nothing changes."""
    torch.serialization.add_safe_globals(HARMLESS)
    vars(mmengine.runner.checkpoint)['get_torch_safe_globals'] = list
    if not _trusted_scopes:
        os.environ[FORCE] = '1'
        os.environ.pop(UNFORCE, None)


@contextmanager
def trusting(trust: bool = True) -> Iterator[None]:
    """Within, checkpoints are unpickled without restriction: whatever is loaded can execute code.

    Only around files whose origin you know. Processes that are started within trust nothing once they
    import mmkd. Without ``trust`` the scope changes nothing, and what is around it holds.

    >>> with trusting():
    ...     trusts()
    True
    >>> trusts()
    False
    """
    global _trusted_scopes
    _trusted_scopes += trust
    if trust:
        os.environ.pop(FORCE, None)
    protect()
    try:
        yield
    finally:
        _trusted_scopes -= trust
        protect()


def trusts() -> bool:
    """Whether checkpoints are trusted here."""
    return _trusted_scopes > 0


# -- what checkpoints of mmengine hold besides tensors: log histories and NumPy numbers ------------


class _OneCycle:
    """Stands in for OneCycleParamScheduler, whose states name its annealing function."""


class _Array:
    """Stands in for ``numpy.ndarray``, with which any bytes could be taken for objects of Python."""

    def __init__(self, *_: Any) -> None:
        raise pickle.UnpicklingError('unsupported array that is made of a buffer')


def _attribute(owner: Any, name: str) -> Any:
    """Stands in for ``getattr``: what mmengine's states need, and nothing else."""
    if owner is HistoryBuffer and name in ('current', 'max', 'mean', 'min'):
        return getattr(HistoryBuffer, name)
    if owner is _OneCycle and name in ('_annealing_cos', '_annealing_linear'):
        return getattr(OneCycleParamScheduler, name)
    raise pickle.UnpicklingError(f'unsupported use of getattr: {name!r} of {owner!r}')


def _array(owner: Any, shape: Any, code: Any) -> np.ndarray:
    """Stands in for NumPy's ``_reconstruct``: an empty array, which then gets what is in the file."""
    if owner is not _Array:
        raise pickle.UnpicklingError(f'unsupported array of {owner!r}')
    return np.ndarray(0, np.int8)


def _dtype(code: Any, *_: Any) -> np.dtype:
    """Stands in for ``numpy.dtype``: a copy of the type of a number."""
    if code not in NUMBERS:
        raise pickle.UnpicklingError(f'unsupported NumPy type {code!r}')
    return np.dtype(code, False, True)


def _number(kind: Any, content: Any) -> Any:
    """Stands in for NumPy's ``scalar``."""
    if not is_number_type(kind):
        raise pickle.UnpicklingError(f'unsupported NumPy number of type {kind!r}')
    return np.frombuffer(content, kind)[0]


def is_number_type(kind: Any) -> bool:
    """Whether this is a NumPy type as NumPy makes it; a state in a file can give one fields of objects.

    >>> is_number_type(np.dtype('float32')), is_number_type(np.dtype([('a', object)]))
    (True, False)
    """
    plain = isinstance(kind, np.dtype) and kind.fields is None and kind.subdtype is None
    return plain and kind.str[1:] in NUMBERS and kind.itemsize == np.dtype(kind.str).itemsize


def _harmless() -> list[Any]:
    """Everything beside its name, so that lists of others that are put up and taken down leave ours alone.

    Names without a dot occur in no file: these are types that objects in a file may have, and that no file
    can call.
    """
    modules = ('numpy._core.multiarray', 'numpy.core.multiarray')  # NumPy 2's name, NumPy 1's name
    kinds = {type(np.dtype(code)) for code in NUMBERS}
    return [
        (HistoryBuffer, f'{HistoryBuffer.__module__}.HistoryBuffer'),
        (_OneCycle, f'{OneCycleParamScheduler.__module__}.OneCycleParamScheduler'),
        (_attribute, 'builtins.getattr'),
        (slice, 'builtins.slice'),
        (_Array, 'numpy.ndarray'),
        (_dtype, 'numpy.dtype'),
        *((_array, f'{module}._reconstruct') for module in modules),
        *((_number, f'{module}.scalar') for module in modules),
        (np.ndarray, 'array'),
        *((kind, f'kind {number}') for number, kind in enumerate(sorted(kinds, key=str))),
    ]


NUMBERS = {
    np.dtype(code).str[1:] for code in np.typecodes['AllInteger'] + np.typecodes['AllFloat'] + '?'
}
"""Codes of the NumPy types that a file may use."""

HARMLESS = _harmless()
"""What files may use besides torch's own list, each with its name in a file."""
