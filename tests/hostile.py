"""Checkpoint files that do more than hold data, each by another way; all try to write the same file."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import HistoryBuffer


class Call:
    """In a pickle: what a call returns when the pickle is read, with a state where one is given."""

    def __init__(self, function: Callable[..., Any], *args: Any, state: Any = None) -> None:
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


class Hostile(Call):
    """Runs code when it is unpickled without restriction: it writes a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(open, str(path), 'w')


def reaches_builtins(trap: Path) -> Any:
    """Only of what mmengine's own allow-list has: ``getattr``, and what it and torch's list give together."""
    initialiser = Call(getattr, HistoryBuffer, '__init__')
    holder = Call(OrderedDict, state=Call(getattr, initialiser, '__builtins__'))
    arguments = Call(getattr, holder, 'open'), torch.Tensor, (str(trap), 'w'), None
    return Call(torch._tensor._rebuild_from_type_v2, *arguments)


def _saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def _checkpoint(extra: Any) -> dict[str, Any]:
    return dict(state_dict={'weight': torch.ones(1)}, ema_state_dict=extra)


def _tar(trap: Path) -> bytes:
    """The format of torch before 0.1.10."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w', format=tarfile.PAX_FORMAT) as archive:
        for name in ('storages', 'tensors', 'pickle'):
            content = pickle.dumps(Hostile(trap), 2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _program(trap: Path) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1)), buffer)
    return buffer.getvalue()


PAYLOADS: dict[str, Callable[[Path], bytes]] = {
    'archive': lambda trap: _saved(_checkpoint(Hostile(trap))),
    'first thing': lambda trap: _saved(Hostile(trap)),
    'protocol 4': lambda trap: _saved(_checkpoint(Hostile(trap)), pickle_protocol=4),
    'legacy': lambda trap: _saved(_checkpoint(Hostile(trap)), _use_new_zipfile_serialization=False),
    'bare pickle': lambda trap: pickle.dumps(_checkpoint(Hostile(trap)), 2),
    'newest pickle': lambda trap: pickle.dumps(Hostile(trap), 5),
    'exec': lambda trap: _saved(_checkpoint(Call(exec, f'open({str(trap)!r}, "w")'))),
    'getattr': lambda trap: _saved(_checkpoint(reaches_builtins(trap))),
    'tar': _tar,
    'program': _program,
}
"""The content of a file by the way it attacks, for the path of the file that an attack writes."""

HARMLESS_IF_TRUSTED = ('program',)
"""Payloads that write nothing even if they are trusted."""
