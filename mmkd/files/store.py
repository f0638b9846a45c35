"""Many small contents on disk: each written whole, checked when it is read, all within a limit of bytes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from mmengine.logging import print_log

from ..collectives import world_size
from .writing import PART

DIGEST = 16
"""Bytes of a digest, which stands before each content."""


class Store:
    """A folder of contents by name.

    A content that is damaged is taken away, so that it can be written anew. At the limit, and on a full
    disk, this is said once and no more is written.

    Args:
        folder: where; what lies there already counts.
        limit: the bytes that may lie there, all ranks together.
        owner: how messages begin.

    >>> import tempfile
    >>> store = Store(Path(tempfile.mkdtemp()), 1000, 'the store')
    >>> store.put('aa/one', b'content')
    >>> bytes(store.get('aa/one')), store.get('aa/two')
    (b'content', None)
    """

    def __init__(self, folder: Path, limit: int, owner: str) -> None:
        self.folder, self.limit, self.owner = folder, limit, owner
        self.full = False
        self._room: int | None = None

    def get(self, name: str) -> memoryview | None:
        """A content; None if there is none, or a damaged one."""
        path = self.folder / name
        try:
            content = bytearray(path.stat().st_size)
            with path.open('rb', buffering=0) as file:
                read = file.readinto(content)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._drop(path, str(error.strerror))
            return None
        inner = memoryview(content)[DIGEST:]
        if read != len(content) or content[:DIGEST] != _digest(name, inner):
            self._drop(path, 'its checksum is another')
            return None
        return inner

    def put(self, name: str, content: bytes) -> None:
        """Write a content unless it is there; nothing once the limit is reached."""
        path = self.folder / name
        if self.full or path.exists():
            return
        if self._room is None:
            self._room = (self.limit - sum(_sizes(self.folder))) // world_size()
        if len(content) + DIGEST > self._room:
            return self._stop(f'its limit of {self.limit} bytes is reached')
        part = path.with_name(f'{path.name}.{os.getpid()}{PART}')
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # no waiting for the disk: what a power cut damages is noticed when it is read
            part.write_bytes(_digest(name, content) + content)
            os.replace(part, path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            return self._stop(f'cannot be written into ({error.strerror})')
        self._room -= len(content) + DIGEST

    def _drop(self, path: Path, reason: str) -> None:
        print_log(
            f'{self.owner}: {path} is damaged ({reason}); it is made anew',
            'current',
            logging.WARNING,
        )
        with suppress(OSError):
            size = path.stat().st_size
            path.unlink()
            self._room = None if self._room is None else self._room + size

    def _stop(self, reason: str) -> None:
        self.full = True
        print_log(f'{self.owner}: {reason}; nothing more is written', 'current', logging.WARNING)


def _digest(name: str, content: bytes | memoryview) -> bytes:
    """Of the name too, so that what lies in another's place is noticed."""
    digest = blake2b(name.encode(), digest_size=DIGEST)
    digest.update(content)
    return digest.digest()


def _sizes(folder: Path) -> Iterator[int]:
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                yield os.stat(os.path.join(place, name)).st_size
