"""Options of the command line that change a config: ``--cfg-options`` and ``--distill-options``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ..errors import InputError, nearest, reason_of
from ..family.building import refuse_without_model


def override(cfg: Config, options: Mapping[str, Any] | None) -> None:
    """Change a config by dotted keys; a key that it does not have yet is added and said.

    >>> cfg = Config(dict(model=dict(type='X'), train_cfg=dict(max_epochs=2)))
    >>> override(cfg, {'train_cfg.max_epochs': 3})
    >>> cfg.train_cfg.max_epochs
    3
    """
    for key, value in (options or {}).items():
        unknown = unknown_part(cfg, key)
        if unknown is not None:
            place, known = unknown
            print_log(
                f'--cfg-options {key}: the config has no {place!r}; it is added and nothing may read it '
                f'({nearest(place.rpartition(".")[2], known)})',
                'current',
                logging.WARNING,
            )
        try:
            cfg.merge_from_dict({key: value})
        except Exception as error:  # mmengine's own answers are of many kinds
            raise InputError(
                f'--cfg-options {key}={value!r}: does not fit the config ({reason_of(error)})'
            ) from error
    if options:
        refuse_without_model(cfg)


def unknown_part(cfg: Config, key: str) -> tuple[str, list[str]] | None:
    """The first part of a dotted key that a config does not have, and what it has in that place.

    >>> unknown_part(Config(dict(train_cfg=dict(max_epochs=2))), 'train_cfg.max_epoch')
    ('train_cfg.max_epoch', ['max_epochs'])
    """
    place: Any = cfg._cfg_dict
    path = key.split('.')
    for depth, name in enumerate(path):
        if not isinstance(place, Mapping):
            return None  # lists and values: merging answers what does not fit
        if name not in place:
            return '.'.join(path[: depth + 1]), [str(known) for known in place]
        place = place[name]
    return None


def nested(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Dotted keys as a nest of dicts.

    >>> nested({'pkd.weight': 3.0, 'teacher.precision': 'bf16'})
    {'pkd': {'weight': 3.0}, 'teacher': {'precision': 'bf16'}}
    """
    result: dict[str, Any] = {}
    for key, value in (options or {}).items():
        *path, last = key.split('.')
        place = result
        for name in path:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise InputError(
                    f'--distill-options {key}={value!r}: {name}={place!r} is given as well'
                )
        if last in place:
            raise InputError(
                f'--distill-options {key}={value!r}: {last}={place[last]!r} is given as well'
            )
        place[last] = value
    return result
