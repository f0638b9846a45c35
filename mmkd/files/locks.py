"""Files that one process at a time may hold."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold a lock file as long as the block runs; False where another process holds it.

    The system lets go of it when a process ends, however it ends. Where a file system knows no locks, everybody
    is told True.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with held(Path(folder, 'lock')) as first, held(Path(folder, 'lock')) as second:
    ...         print(first, second)
    True False
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass
        yield True
