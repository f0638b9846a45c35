"""What a checkpoint was trained with, so that another training does not go on from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..files.checkpoints import hash_of

ORIGINS = {'init_cfg', 'pretrained', 'checkpoint'}


MANIFEST = 'mmkd_manifest'
"""Where a checkpoint keeps what it was trained with."""


def manifest(model: Any, config: Mapping[str, Any]) -> dict[str, str]:
    """What a training is of: student and methods by option, teachers by a hash of their weights.

    Where weights come from is left out: a checkpoint brings its own.
    """
    parts = {name: config.get(name) or {} for name in ('student', 'methods')}
    options = {key: repr(value) for key, value in flat(parts).items()}
    teachers = {
        f'teacher {name!r} (weights)': hash_of(teacher.model)
        for name, teacher in model.distillation.teachers.items()
    }
    return {k: v for k, v in options.items() if not ORIGINS & set(k.split('.'))} | teachers


def flat(nest: Any, prefix: str = '') -> dict[str, Any]:
    """A nest of dicts and lists by dotted key.

    >>> flat({'pkd': {'weight': 1.0, 'tap': ['neck']}})
    {'pkd.weight': 1.0, 'pkd.tap.0': 'neck'}
    """
    if isinstance(nest, Mapping):
        items: Any = nest.items()
    elif isinstance(nest, (list, tuple)):
        items = enumerate(nest)
    else:
        return {prefix: nest}
    found = {}
    for key, value in items:
        found.update(flat(value, f'{prefix}.{key}' if prefix else str(key)))
    return found


def refuse_other_training(theirs: Mapping[str, str] | None, ours: Mapping[str, str]) -> None:
    """Stop if a checkpoint is of another training than the config.

    >>> refuse_other_training({'methods.pkd.weight': '1.0'}, {'methods.pkd.weight': '1.0'})
    """
    if theirs is None:
        raise InputError(
            'resume: the checkpoint is of a training without distillation; load_from=CHECKPOINT takes '
            'its weights alone'
        )
    keys = [k for k in {**theirs, **ours} if theirs.get(k) != ours.get(k)]
    if keys:
        shown = [
            f'{k} is {theirs.get(k, "absent")} in the checkpoint and {ours.get(k, "absent")} in the '
            'config'
            for k in keys[:5]
        ]
        more = f' and {len(keys) - 5} more' if len(keys) > 5 else ''
        raise InputError(
            f'resume: the checkpoint is of another training: {"; ".join(shown)}{more}; take the config '
            'that it is of, or load_from=CHECKPOINT for its weights alone'
        )
