"""Checkpoints: read without executing code, load with a report, keep the student's part."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleParamScheduler
from torch import Tensor, nn

from ..errors import InputError, nearest

PREFIX = 'distillation.'
"""Every training-only key of a checkpoint begins with this."""

COUNTERS = 'num_batches_tracked'
"""BatchNorm's counters: absent from old checkpoints, and no weights."""


class DamagedError(InputError):
    """A checkpoint that is cut off, or of which bytes are wrong."""


def read_checkpoint(path: str | Path, trust: bool = False) -> dict[str, Any]:
    """Read a checkpoint file; code in it is never executed unless the file is trusted.

    Args:
        path: a file, or a URL (downloaded once into torch's cache).
        trust: unpickle without restriction. Only for files whose origin you know.
    """
    file = _local(str(path))
    if trust:
        content = torch.load(file, map_location='cpu', weights_only=False)
    else:
        content = _read_safely(file)
    if not isinstance(content, Mapping):
        raise InputError(
            f'checkpoint {path}: holds a {type(content).__name__}; needed: a state dict'
        )
    return dict(content)


def weights_of(checkpoint: Mapping[str, Any]) -> OrderedDict[str, Tensor]:
    """The model weights in a checkpoint, under their plain names, training-only parts left out.

    >>> sorted(weights_of({'state_dict': {'module.a': torch.ones(1), 'distillation.b': torch.ones(1)}}))
    ['a']
    """
    state = checkpoint.get('state_dict', checkpoint)
    named = ((name.removeprefix('module.'), value) for name, value in state.items())
    kept = OrderedDict(
        (name, value)
        for name, value in named
        if isinstance(value, Tensor) and not name.startswith(PREFIX)
    )
    kept._metadata = getattr(state, '_metadata', OrderedDict())  # type: ignore[attr-defined]
    return kept


@dataclass
class KeyReport:
    """How a state dict and a model agree."""

    loaded: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every key of each side found its counterpart."""
        return not (self.missing or self.unexpected or self.misshaped)

    def __str__(self) -> str:
        parts = [f'{self.loaded} keys loaded']
        for label in ('missing', 'unexpected', 'misshaped'):
            keys = getattr(self, label)
            if keys:
                shown = ', '.join(keys[:4]) + (', ...' if len(keys) > 4 else '')
                parts.append(f'{len(keys)} {label} ({shown})')
        return '; '.join(parts)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> KeyReport:
    """Load what fits and report the rest; the caller decides what to make of it.

    >>> net = nn.Linear(2, 2)
    >>> print(load_weights(net, {'weight': torch.ones(2, 2), 'bias': torch.ones(3)}))
    1 keys loaded; 1 misshaped (bias: (3,) in the file, (2,) in the model)
    """
    own = model.state_dict()
    misshaped = {k for k, v in weights.items() if k in own and v.shape != own[k].shape}
    fitting = OrderedDict((k, v) for k, v in weights.items() if k not in misshaped)
    fitting._metadata = getattr(weights, '_metadata', OrderedDict())  # type: ignore[attr-defined]
    outcome = model.load_state_dict(fitting, strict=False)
    missing = {k for k in outcome.missing_keys if not k.endswith(COUNTERS)} - misshaped
    return KeyReport(
        loaded=len(fitting) - len(outcome.unexpected_keys),
        missing=sorted(missing),
        unexpected=sorted(outcome.unexpected_keys),
        misshaped=[
            f'{k}: {tuple(weights[k].shape)} in the file, {tuple(own[k].shape)} in the model'
            for k in sorted(misshaped)
        ],
    )


def inherit(student: nn.Module, teacher: nn.Module, part: str) -> KeyReport:
    """Start a part of the student (``neck``, ``bbox_head``) from the teacher's weights that fit.

    >>> nets = [nn.Sequential(nn.Linear(n, 4), nn.Linear(4, 4)) for n in (2, 3)]
    >>> inherit(*nets, part='1').loaded
    2
    """
    parts = [dict(model.named_modules()).get(part) for model in (student, teacher)]
    for owner, model, found in zip(('student', 'teacher'), (student, teacher), parts):
        if found is None:
            names = [name for name, _ in model.named_children()]
            raise InputError(f'inherit: the {owner} has no part {part!r}; {nearest(part, names)}')
    own, theirs = parts
    assert own is not None
    assert theirs is not None
    report = load_weights(own, theirs.state_dict())
    if not report.loaded:
        raise InputError(
            f"inherit: none of the teacher's weights of {part!r} fits the student: {report}; leave "
            f'{part!r} out'
        )
    return report


def classes_of(checkpoint: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The class names that a checkpoint was trained on, where it tells them."""
    meta = checkpoint.get('meta') or {}
    dataset = meta.get('dataset_meta') or {}
    names = dataset.get('classes') or dataset.get('CLASSES') or meta.get('CLASSES')
    return None if names is None else tuple(str(name) for name in names)


def _local(path: str) -> Path:
    if urlparse(path).scheme in ('http', 'https'):
        return _downloaded(path)
    file = Path(path)
    if not file.is_file():
        raise InputError(f'checkpoint {path}: no such file')
    return file


def _downloaded(url: str) -> Path:
    target = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(url).path).name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(target))
        except OSError as error:
            raise InputError(
                f'checkpoint {url}: cannot be downloaded ({error}); fetch it by other means and '
                'give the path of the file'
            ) from error
    return target


def _read_safely(file: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(file, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error)
        if 'Unsupported' not in reason and 'allowed' not in reason:
            raise _damaged(file, error) from error
        detail = next((line for line in reason.splitlines() if 'Unsupported' in line), reason)
        raise InputError(
            f'checkpoint {file}: needs unrestricted unpickling, which can execute code '
            f'({detail.strip()[:200]}). If you trust its origin: --trust-checkpoint, or '
            'trust_checkpoint=True for a teacher'
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> DamagedError:
    size = file.stat().st_size
    first = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return DamagedError(
        f'checkpoint {file}: truncated or damaged ({size} bytes; {first}); copy or save it again'
    )


def _harmless() -> list[Any]:
    """What mmengine's checkpoints hold besides tensors: log histories and NumPy numbers."""
    arrays = (getattr(np, '_core', None) or np.core).multiarray
    modules = ('numpy._core.multiarray', 'numpy.core.multiarray')  # NumPy 2's name, NumPy 1's name
    dtypes = [type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64, np.uint8, bool)]
    return [
        HistoryBuffer,
        np.ndarray,
        np.dtype,
        *((arrays._reconstruct, f'{module}._reconstruct') for module in modules),
        *((arrays.scalar, f'{module}.scalar') for module in modules),
        (_attribute, 'builtins.getattr'),
        (_OneCycle, f'{OneCycleParamScheduler.__module__}.OneCycleParamScheduler'),
        *dtypes,
    ]


class _OneCycle:
    """Stands in for OneCycleParamScheduler, whose states name its annealing function."""


def _attribute(owner: Any, name: str) -> Any:
    """Stands in for ``getattr`` in a checkpoint: what mmengine's states need, and nothing else."""
    if owner is HistoryBuffer and name in ('current', 'max', 'mean', 'min'):
        return getattr(HistoryBuffer, name)
    if owner is _OneCycle and name in ('_annealing_cos', '_annealing_linear'):
        return getattr(OneCycleParamScheduler, name)
    raise pickle.UnpicklingError(f'Unsupported use of getattr: {name!r} of {owner!r}')
