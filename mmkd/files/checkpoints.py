"""Checkpoints: read without executing code, load with a report, keep the student's part."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlparse

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ..errors import InputError, nearest
from .downloads import downloaded
from .inspection import asked_for, refuse_overstated
from .safety import TRUST, protect, trusting, trusts

T = TypeVar('T')

PREFIX = 'distillation.'
"""Every training-only key of a checkpoint begins with this."""

COUNTERS = 'num_batches_tracked'
"""BatchNorm's counters: absent from old checkpoints, and no weights."""


SAFE_SUFFIX = '.safetensors'
"""Of files that hold tensors and cannot hold code."""

REFUSED = 'unsupported|unrecognized function|create new object|Can only build'
"""Words with which torch's restricted reader and ours say that a file wants more than data."""


class DamagedError(InputError):
    """A checkpoint that is cut off, or of which bytes are wrong."""


def read_checkpoint(path: str | Path, trust: bool = False) -> dict[str, Any]:
    """Read a checkpoint file; code in it is never executed unless the file is trusted.

    Args:
        path: a file, or a URL (downloaded once into torch's cache).
        trust: unpickle without restriction, as within :func:`mmkd.trusting`. Only for files whose origin
            you know.
    """
    content = _content(path, trust)
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
    if state is checkpoint and isinstance(checkpoint.get('model'), Mapping):
        state = checkpoint['model']  # as DeiT and its kin write them
    if not isinstance(state, Mapping):
        raise InputError(f'state_dict: is a {type(state).__name__}; needed: tensors by name')
    named = ((str(name).removeprefix('module.'), value) for name, value in state.items())
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
    rebuilt = set(
        model.load_state_dict(own, strict=False).missing_keys
    )  # what it makes anew itself
    misshaped = {k for k, v in weights.items() if k in own and v.shape != own[k].shape} - rebuilt
    if misshaped and _takes(model, weights):
        misshaped = set()  # it resizes what it is given
    fitting = OrderedDict((k, v) for k, v in weights.items() if k not in misshaped)
    fitting._metadata = getattr(weights, '_metadata', OrderedDict())  # type: ignore[attr-defined]
    outcome = model.load_state_dict(fitting, strict=False)
    missing = {k for k in outcome.missing_keys if not k.endswith(COUNTERS)} - misshaped - rebuilt
    return KeyReport(
        loaded=len(fitting) - len(outcome.unexpected_keys),
        missing=sorted(missing),
        unexpected=sorted(outcome.unexpected_keys),
        misshaped=[
            f'{k}: {tuple(weights[k].shape)} in the file, {tuple(own[k].shape)} in the model'
            for k in sorted(misshaped)
        ],
    )


def load_fitting(model: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> KeyReport:
    """Load weights that must be all that a model has; more in the file is left out.

    >>> load_fitting(nn.Linear(2, 2), {'weight': torch.ones(2, 3)}, 'other.pth')
    Traceback (most recent call last):
    ...
    mmkd.errors.InputError: checkpoint other.pth: does not fit the config: 0 keys loaded; 1 missing \
(bias); 1 misshaped (weight: (2, 3) in the file, (2, 2) in the model); give the config it was trained with
    """
    report = load_weights(model, weights)
    if report.missing or report.misshaped:
        raise InputError(
            f'checkpoint {source}: does not fit the config: {report}; give the config it was trained with'
        )
    return report


def _takes(model: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """Whether a model takes weights whose shapes are not its own: some resize position tables."""
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError:
        return False
    return True


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
    meta = _mapping(checkpoint.get('meta'))
    dataset = _mapping(meta.get('dataset_meta'))
    names = dataset.get('classes') or dataset.get('CLASSES') or meta.get('CLASSES')
    return None if names is None else tuple(str(name) for name in names)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


# -- reading ---------------------------------------------------------------------------------------


@CheckpointLoader.register_scheme(prefixes=['', 'http://', 'https://'], force=True)
def load_from_file_or_url(filename: str, map_location: Any = None) -> Any:
    """What mmengine reads files and URLs with: ``load_from``, resumes, ``init_cfg`` of every toolbox."""
    return _content(filename, map_location=map_location)


def _content(path: str | Path, trust: bool = False, map_location: Any = None) -> Any:
    file, place = _local(str(path)), 'cpu' if map_location is None else map_location
    if not trust and not trusts():
        return _read_safely(file, place)
    with trusting():
        return _answered(file, lambda: torch.load(file, map_location=place, weights_only=False))


def _local(path: str) -> Path:
    if urlparse(path).scheme in ('http', 'https'):
        return downloaded(path)
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f'checkpoint {path}: no such file')
    return file


def _read_safely(file: Path, place: Any) -> Any:
    """Read a file without executing code of it."""
    protect()
    if file.suffix == SAFE_SUFFIX:
        return _answered(file, lambda: _safetensors(file, place))
    if names := _answered(file, lambda: asked_for(file)):
        more = ', ...' if len(names) > 4 else ''
        raise _wants_code(file, f'wants to run {", ".join(names[:4])}{more} while it is read')
    content = _answered(file, lambda: torch.load(file, map_location=place, weights_only=True))
    _answered(file, lambda: refuse_overstated(file, content))
    return content


def hash_of(model: nn.Module) -> str:
    """A hash of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _safetensors(file: Path, place: Any) -> dict[str, Tensor]:
    """The tensors of a file of that format, which holds nothing else."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise InputError(
            f'checkpoint {file}: needs the package safetensors; pip install safetensors'
        ) from error
    return load_file(file, device=str(place))


def _answered(file: Path, step: Callable[[], T]) -> T:
    """Take a step of reading; whatever is wrong with the file becomes one message."""
    try:
        return step()
    except (InputError, torch.cuda.OutOfMemoryError):
        raise
    except PermissionError as error:
        raise InputError(f'checkpoint {file}: cannot be read ({error.strerror})') from error
    except Exception as error:  # wrong bytes can be anything to zipfile, pickle and torch
        raise _answer(file, error) from error


def _answer(file: Path, error: Exception) -> InputError:
    # torch puts advice before and after what happened, each in a paragraph of its own
    paragraphs = str(error).split('\n\n')
    reason = (paragraphs[len(paragraphs) > 1].splitlines() or [type(error).__name__])[0].strip()[
        :160
    ]
    if isinstance(error, pickle.UnpicklingError) and re.search(REFUSED, reason):
        return _wants_code(file, f'wants what no checkpoint needs ({reason})')
    if isinstance(error, MemoryError) or 'allocate' in reason:
        return InputError(f'checkpoint {file}: declares more than the memory holds ({reason})')
    size = file.stat().st_size
    return DamagedError(
        f'checkpoint {file}: truncated or damaged ({size} bytes; {reason}); copy or save it again'
    )


def _wants_code(file: Path, what: str) -> InputError:
    return InputError(
        f'checkpoint {file}: {what}. Nothing of it was run. Such a file can execute code, which no weights '
        f'need: it may be an attack; {TRUST}'
    )
