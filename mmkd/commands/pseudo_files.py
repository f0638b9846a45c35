"""What ``mmkd label`` writes: image by image into a file that a kill leaves usable, and then the whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from ..files.writing import PART, refuse_unwritable

Entry = dict[str, Any]
"""Of an image ``image`` and ``annotations`` of COCO, ``data`` of a classifier, or why it is ``bad``."""


class PartFile:
    """Lines beside a file to come: first of what run they are, then one for each image.

    Args:
        out: the file to come.
        run: what must be the same for lines to go on from.
    """

    def __init__(self, out: Path, run: Mapping[str, Any]) -> None:
        self.out, self.run = out, json.loads(json.dumps(run))
        self.path = out.with_name(out.name + PART)

    def done(self) -> set[Any]:
        """The images that are done; a line that a kill has cut off is taken away."""
        if self.out.exists():
            raise InputError(f'--out {self.out}: exists; name another file, or remove it')
        refuse_unwritable(self.out.parent, '--out')
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            self._append(self.run)
        self._cut()
        first = next(self._lines(), None)
        if first != self.run:
            raise InputError(
                f'--out {self.out}: {self.path} is of another run ({_difference(first, self.run)}); remove it, '
                'or name another file'
            )
        return {entry['id'] for entry in self.entries()}

    def add(self, entries: Sequence[Entry]) -> None:
        """Write what was found."""
        self._append(*entries)

    def entries(self) -> Iterator[Entry]:
        """What was found so far, one after the other."""
        lines = self._lines()
        next(lines, None)
        yield from lines

    def finish(self, content: Iterator[str]) -> None:
        """Write the whole file and drop the lines."""
        whole = self.out.with_name(self.out.name + '.new')
        with whole.open('w') as file:
            file.writelines(content)
            _settle(file)
        os.replace(whole, self.out)
        self.path.unlink()

    def _append(self, *entries: Mapping[str, Any]) -> None:
        with self.path.open('a') as file:
            file.writelines(json.dumps(entry) + '\n' for entry in entries)
            _settle(file)

    def _lines(self) -> Iterator[Any]:
        with self.path.open() as file:
            for number, line in enumerate(file, 1):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise InputError(
                        f'--out {self.out}: {self.path}, line {number} is damaged; remove the file'
                    ) from error

    def _cut(self) -> None:
        with self.path.open('rb+') as file:
            end = file.seek(0, os.SEEK_END)
            while end:  # at most a line is looked through
                start = max(0, end - 4096)
                file.seek(start)
                found = file.read(end - start).rfind(b'\n')
                if found >= 0:
                    file.truncate(start + found + 1)
                    return
                end = start
            file.truncate(0)
        self._append(self.run)


def coco_file(part: PartFile, categories: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A COCO file in pieces; annotations are numbered from 1."""
    yield '{"categories": ' + json.dumps(list(categories)) + ',\n"images": [\n'
    yield from _joined(entry['image'] for entry in part.entries() if 'image' in entry)
    yield '],\n"annotations": [\n'
    every = (a for entry in part.entries() for a in entry.get('annotations', ()))
    yield from _joined(dict(id=number, **a) for number, a in enumerate(every, 1))
    yield ']}\n'


def list_file(part: PartFile, classes: Sequence[str]) -> Iterator[str]:
    """A list of images with classes, as data sets of mmpretrain read it, in pieces."""
    yield '{"metainfo": ' + json.dumps(dict(classes=list(classes))) + ',\n"data_list": [\n'
    yield from _joined(entry['data'] for entry in part.entries() if 'data' in entry)
    yield ']}\n'


def _joined(items: Iterator[Mapping[str, Any]]) -> Iterator[str]:
    """Items of a JSON list, a line each.

    >>> ''.join(_joined(iter([dict(a=1), dict(a=2)])))
    '{"a": 1},\\n{"a": 2}\\n'
    """
    between = ''
    for item in items:
        yield between + json.dumps(item)
        between = ',\n'
    yield '\n'


def _difference(found: Any, wanted: Mapping[str, Any]) -> str:
    if not isinstance(found, Mapping):
        return 'it does not say of which'
    return ', '.join(
        f'{key}: {found.get(key)!r}, now {value!r}'
        for key, value in wanted.items()
        if found.get(key) != value
    )


def _settle(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
