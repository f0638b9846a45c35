"""Checkpoints on a local disk: written whole or not at all, and found again after a kill."""

from __future__ import annotations

import errno
import logging
import os
import zipfile
from contextlib import suppress
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import print_log

from ..errors import InputError
from .checkpoints import DamagedError, read_checkpoint

ATOMIC = 'mmkd_atomic'
"""The name of the backend: ``default_hooks.checkpoint.backend_args=dict(backend='mmkd_atomic')``."""
PART = '.part'
FULL = (errno.ENOSPC, errno.EDQUOT)

_doomed: list[str] = []
"""Files that go as soon as the next one is written."""


class AtomicBackend(LocalBackend):
    """A local disk on which a file is whole at every moment, or absent.

    A file is written beside its place and moved there. What is to be removed stays until the next file
    is in its place: mmengine removes the old checkpoint before it writes the new one.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file, then remove what was to be removed before."""
        write_whole(Path(filepath), obj)
        for path in _doomed:
            if path != str(filepath):
                with suppress(FileNotFoundError):
                    os.remove(path)
        _doomed.clear()

    def remove(self, filepath: str | Path) -> None:
        """Remove a file once the next one is written."""
        _doomed.append(str(filepath))


register_backend(ATOMIC, AtomicBackend, force=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a kill leaves the old one or the new one, and nothing between."""
    part = path.with_name(path.name + PART)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno in FULL:
            raise _full(path, len(content)) from error
        raise
    _settle(path.parent)


def refuse_unwritable(path: str | Path, option: str) -> None:
    """Stop if a folder that will be written into cannot be; nothing is made here.

    >>> refuse_unwritable('/dev/null/run', '--out')
    Traceback (most recent call last):
    ...
    mmkd.errors.InputError: --out /dev/null/run: cannot be written into (/dev/null is no folder); name another
    """
    there = next(place for place in (Path(path), *Path(path).absolute().parents) if place.exists())
    if not there.is_dir():
        reason = f'{there} is no folder'
    elif not os.access(there, os.W_OK | os.X_OK):
        reason = f'no permission for {there}'
    else:
        return
    raise InputError(f'{option} {path}: cannot be written into ({reason}); name another')


def latest_checkpoint(work_dir: str | Path) -> Path | None:
    """The newest whole checkpoint of a work dir that training can go on from; None if there is none.

    That is what ``last_checkpoint`` names. Where that is damaged, or a kill came before it was written,
    the newest whole one is taken. Where one is named and none is whole, training does not start anew.
    """
    folder = Path(work_dir)
    note = folder / 'last_checkpoint'
    text = note.read_text(errors='replace').strip() if note.is_file() else ''
    named = Path(text) if text else None
    if named is not None and is_whole(named):
        return named
    found = [p for p in folder.glob('*.pth') if not p.name.startswith('best_')]
    for path in sorted(found, key=lambda p: p.stat().st_mtime, reverse=True):
        if is_whole(path):
            print_log(f'resume: {path}; {named} is missing or damaged', 'current', logging.WARNING)
            return path
    if found or named is not None:
        names = ', '.join(sorted(p.name for p in found)) or f'last_checkpoint names {named}'
        raise InputError(
            f'--resume auto: all checkpoints in {folder} are truncated or damaged, or gone ({names}); '
            'remove these files to start anew'
        )
    return None


def is_whole(path: Path) -> bool:
    """Whether a file is a complete archive whose parts have their checksums, and torch can read it.

    The checksums alone do not tell: of a damaged directory Python's reader and torch's see different
    things.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        read_checkpoint(path)
    except InputError as error:
        return not isinstance(error, DamagedError)  # others are whole, and not to be trusted
    except Exception:  # a wrong byte in a header can be anything to zipfile
        return False
    return True


def _settle(folder: Path) -> None:
    """Let the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _full(path: Path, size: int) -> InputError:
    return InputError(
        f'checkpoint {path}: no space left on the disk ({size / 2**20:.1f} MB needed). The checkpoints '
        'before it are whole; make room and go on with --resume'
    )
