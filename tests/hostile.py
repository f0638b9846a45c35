"""Objects whose pickles do more than hold data."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Hostile:
    """Runs code when it is unpickled without restriction: it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), 'w'))
