"""What a checkpoint file asks for, found out without unpickling it, and what its content claims to be."""

from __future__ import annotations

import io
import pickletools
import tarfile
import zipfile
import zlib
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from ..errors import InputError
from .safety import TRUST, is_number_type

FOLD = 100
"""A file may unfold to so many times its size; what torch writes is not compressed at all."""

ROOM = 2**26
"""Bytes or numbers that one tensor may always have."""

PICKLES = 5
"""A file of torch before 1.6 is so many pickles, then the bytes of tensors."""


PROTOCOL = 2
"""The version of pickle that torch writes and that its restricted reader knows."""


@dataclass
class Survey:
    """What a pickle would do.

    Attributes:
        names: the functions and classes that it asks for, as ``module.name``.
        unfolded: the parts of its largest value, counted as often as they are met in it.
        steps: how many operations it has.
        elements: those of the largest storage that it declares.
        protocol: the version of pickle.
        intact: whether its checksum is right, where it has one.
    """

    names: list[str] = field(default_factory=list)
    unfolded: int = 0
    steps: int = 0
    elements: int = 0
    protocol: int = 0
    intact: bool = True


class _Value(NamedTuple):
    """What is known of a value on the stack of a pickle."""

    size: int = 1
    number: int = 0
    text: str = ''


def survey(stream: IO[bytes], pickles: int = 1) -> Survey:
    """Follow pickles step by step without making anything; ends where they do.

    >>> import pickle
    >>> survey(io.BytesIO(pickle.dumps({'a': print}, 4))).names
    ['builtins.print']
    """
    found = Survey()
    with suppress(Exception):  # what is damaged is for the reader to say
        for _ in range(pickles):
            _follow(stream, found)
    return found


def _follow(stream: IO[bytes], found: Survey) -> None:
    stack: list[_Value | None] = []  # None is a mark
    memo: dict[int, Any] = {}
    argument: Any
    for operation, argument, _ in pickletools.genops(stream):
        found.steps += 1
        name = operation.name
        if 'PUT' in name or name == 'MEMOIZE':
            memo[len(memo) if argument is None else int(argument)] = stack[-1]
            continue
        if 'GET' in name:
            stack.append(memo[int(argument)])
            continue
        if name == 'MARK':
            stack.append(None)
            continue
        taken = _taken(stack, operation.stack_before)
        if name in ('GLOBAL', 'INST'):
            found.names.append(_modern(*argument.split(' ', 1)))
        if name == 'STACK_GLOBAL':
            found.names.append(_modern(taken[1].text, taken[0].text))
        size = min(1 + sum(value.size for value in taken), 2**62)
        number = argument if isinstance(argument, int) else 0
        text = argument if isinstance(argument, str) else ''
        made = _Value(size, max([number, *(v.number for v in taken)]), text)
        stack += [made] * len(operation.stack_after)
        found.unfolded = max(found.unfolded, size)
        if name == 'PROTO':
            found.protocol = max(found.protocol, int(argument))
        if name == 'BINPERSID':
            found.elements = max(found.elements, made.number)


def _taken(stack: list[_Value | None], before: list[Any]) -> list[_Value]:
    """What an operation takes off the stack, the last first."""
    taken: list[_Value] = []
    single = len(before)
    if pickletools.markobject in before:
        single = before.index(pickletools.markobject)
        while (value := stack.pop()) is not None:
            taken.append(value)
    for _ in range(single):
        value = stack.pop()
        taken += [value] if value is not None else []
    return taken


def _modern(module: str, name: str) -> str:
    """A name as Python 3 has it; ``os`` is what its author wrote where the pickle says ``posix``."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f'{"os" if module in ("posix", "nt") else module}.{name}'


def asked_for(file: Path) -> list[str]:
    """The functions and classes that a file asks for and that no checkpoint needs.

    Raises:
        InputError: where it is a program and no checkpoint, or would be far larger in memory than it is.
    """
    if file.suffix == '.safetensors':
        return []
    with file.open('rb') as stream:
        archive = stream.read(4) == b'PK\x03\x04'
    found = _survey_archive(file) if archive else _survey_legacy(file)
    if found.elements > max(FOLD * file.stat().st_size, ROOM):
        raise _huge(file, f'declares a tensor of {found.elements:.3g} numbers')
    if found.unfolded > FOLD * found.steps:
        raise _huge(file, f'unfolds to {found.unfolded:.3g} values')
    names = sorted(set(found.names) - _known())
    if names and not found.intact:
        raise zipfile.BadZipFile('the checksum of data.pkl is wrong')
    if not names and found.protocol > PROTOCOL:
        raise InputError(
            f'checkpoint {file}: is written with pickle protocol {found.protocol}, which torch reads only '
            f'without restriction; save it again with pickle_protocol={PROTOCOL}, or {TRUST}'
        )
    return names


def _survey_archive(file: Path) -> Survey:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    stored = [entry for entry in entries if entry.compress_type == zipfile.ZIP_STORED]
    if any(entry.file_size != entry.compress_size for entry in stored):
        raise zipfile.BadZipFile('a part has two sizes')
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > FOLD * file.stat().st_size:
        raise _huge(file, f'unpacks to {_human(unpacked)}')
    reader = torch._C.PyTorchFileReader(
        str(file)
    )  # the bytes that torch will unpickle, and no others
    if 'constants.pkl' in reader.get_all_records():
        raise InputError(
            f'checkpoint {file}: is a TorchScript archive, which holds a program and not only weights; give '
            'the checkpoint that it was made of'
        )
    content = reader.get_record('data.pkl')
    found = survey(io.BytesIO(content))
    sums = [entry.CRC for entry in entries if entry.filename.endswith('/data.pkl')]
    found.intact = zlib.crc32(content) in sums
    return found


def _survey_legacy(file: Path) -> Survey:
    if tarfile.is_tarfile(file):
        raise InputError(
            f'checkpoint {file}: is a tar archive (torch before 0.1.10), which is not read without running '
            f'code; {TRUST}'
        )
    with file.open('rb') as stream:
        return survey(stream, PICKLES)


def _known() -> set[str]:
    """Names that torch's restricted reader allows."""
    reader: Any = torch._weights_only_unpickler
    return {*reader._get_allowed_globals(), *reader._get_user_allowed_globals()}


def refuse_overstated(file: Path, content: Any) -> None:
    """Answer content that is far larger than its file, for whoever copies it or walks through it."""
    limit, counted = max(FOLD * file.stat().st_size, ROOM), Counted()
    try:
        unfolded = counted.parts(content)
    except RecursionError as error:
        raise InputError(f'checkpoint {file}: its values hold each other without end') from error
    if unfolded > FOLD * counted.references:
        raise _huge(file, f'unfolds to {unfolded:.3g} values')
    if counted.largest > limit:
        raise _huge(file, f'declares a tensor of {_human(counted.largest)}')
    if counted.odd is not None:
        raise InputError(
            f'checkpoint {file}: holds an array of {counted.odd!r}, which no training writes'
        )


@dataclass
class Counted:
    """What a content holds, however often it is met in it.

    >>> twice = [[1, 2], [1, 2]]
    >>> Counted().parts([twice, twice])
    15
    """

    references: int = 1
    largest: int = 0
    odd: np.dtype | None = None
    _sizes: dict[int, int] = field(default_factory=dict)

    def parts(self, value: Any) -> int:
        """How many values there are in one, counted as often as they are met."""
        if id(value) not in self._sizes:
            inner = _inner(value)
            self.references += len(inner)
            self._note(value)
            self._sizes[id(value)] = 1 + sum(map(self.parts, inner))
        return self._sizes[id(value)]

    def _note(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self.largest = max(self.largest, value.numel() * value.element_size())
        if isinstance(value, np.ndarray):
            self.largest = max(self.largest, value.nbytes)
            self.odd = self.odd if is_number_type(value.dtype) else value.dtype


def _inner(value: Any) -> list[Any]:
    """What a container holds; an OrderedDict and a log history have attributes, too."""
    attributes = vars(value).values() if isinstance(value, (OrderedDict, HistoryBuffer)) else ()
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values(), *attributes]
    return list(value) if isinstance(value, (list, tuple, set)) else list(attributes)


def _human(size: float) -> str:
    """A number of bytes for readers.

    >>> _human(1536), _human(5e12)
    ('1.5 KiB', '4.547 TiB')
    """
    for unit in ('bytes', 'KiB', 'MiB', 'GiB'):
        if size < 1024:
            return f'{size:.4g} {unit}'
        size /= 1024
    return f'{size:.4g} TiB'


def _huge(file: Path, what: str) -> InputError:
    return InputError(
        f'checkpoint {file}: {what} in a file of {_human(file.stat().st_size)}, so it was not unpacked; no '
        'training writes such a file'
    )
