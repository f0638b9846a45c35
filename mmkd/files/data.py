"""Data sets of a config, checked before anything is built: their files are there and can be read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

from ..errors import InputError

SMALL = 64 * 2**20
"""Annotation files up to this size are read beforehand; larger ones only where training has failed."""
COCO = ('images', 'annotations', 'categories')


def check_datasets(cfg: Config, parts: tuple[str, ...]) -> None:
    """Answer data that are missing and annotation files that are damaged."""
    for where, dataset in datasets(cfg, parts):
        _check_paths(where, dataset)
    check_annotations(cfg, parts, most=SMALL)


def check_annotations(
    cfg: Config, parts: tuple[str, ...], least: int = 0, most: float = float('inf')
) -> None:
    """Answer annotation files of some sizes that are damaged, or lack what their readers need."""
    scope = str(cfg.get('default_scope') or 'mmengine')
    for where, dataset in datasets(cfg, parts):
        name = dataset.get('ann_file')
        if isinstance(name, str) and name and not _elsewhere(dataset):
            path = Path(str(dataset.get('data_root') or ''), name)
            if path.is_file() and least <= path.stat().st_size <= most:
                _check_annotation(f'{where}.ann_file', path, dataset, scope)
    for where, path in _compared(cfg, parts):
        if path.is_file() and least <= path.stat().st_size <= most:
            _check_lists(where, path, _read_json(where, path), COCO)


def datasets(cfg: Config, parts: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The data set configs of some loops and those they wrap, each with its place in the config."""
    for part in parts:
        loader = cfg.get(f'{part}_dataloader')
        if loader is not None and cfg.get(f'{part}_cfg') is not None:
            yield from _nested(loader['dataset'], f'{part}_dataloader.dataset')


def data_cure(root: str) -> str:
    """How to get data that are missing."""
    if 'shapes' in Path(root).name:
        return f'draw it: python tools/make_shapes.py {root.rstrip("/")}'
    return (
        'put the data there, or give its place: --cfg-options train_dataloader.dataset.data_root='
        'DIR (docs/own_data.md)'
    )


def _nested(cfg: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield where, cfg
    inner = cfg.get('dataset')
    if isinstance(inner, Mapping):
        yield from _nested(inner, f'{where}.dataset')
    for index, item in enumerate(cfg.get('datasets') or []):
        yield from _nested(item, f'{where}.datasets[{index}]')


def _compared(cfg: Config, parts: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """The COCO files that evaluators compare with."""
    for part in parts:
        evaluators = cfg.get(f'{part}_evaluator') or []
        for metric in evaluators if isinstance(evaluators, list) else [evaluators]:
            if str(metric.get('type')).endswith('CocoMetric') and not metric.get('format_only'):
                yield f'{part}_evaluator.ann_file', Path(str(metric.get('ann_file')))


def _elsewhere(cfg: Mapping[str, Any]) -> bool:
    """Whether the data are not on this file system."""
    paths = f'{cfg.get("data_root")} {cfg.get("ann_file")}'
    return bool(cfg.get('backend_args') or cfg.get('file_client_args')) or '://' in paths


def _check_paths(where: str, cfg: Mapping[str, Any]) -> None:
    if cfg.get('backend_args') or cfg.get('file_client_args'):
        return
    root = str(cfg.get('data_root') or '')
    prefix = cfg.get('data_prefix') or {}
    prefixes = {'data_prefix': prefix} if isinstance(prefix, str) else dict(prefix)
    paths = {'data_root': root, 'ann_file': cfg.get('ann_file'), **prefixes}
    for option, path in paths.items():
        if not isinstance(path, str) or not path or '://' in path:
            continue
        full = Path(path) if option == 'data_root' else Path(root, path)
        if not full.exists():
            raise InputError(
                f'data set missing: {where}.{option}: {full} does not exist; {data_cure(root)}'
            )


# -- annotation files ------------------------------------------------------------------------------


def _check_annotation(where: str, path: Path, cfg: Mapping[str, Any], scope: str) -> None:
    kind = _kind(cfg.get('type'), scope)
    bases = {f'{base.__module__.split(".")[0]}.{base.__name__}': base for base in kind.__mro__}
    if path.suffix == '.json':
        content = _read_json(where, path)
        if 'mmdet.CocoDataset' in bases:
            _check_coco(where, path, content, cfg, kind)
    custom: Any = bases.get('mmpretrain.CustomDataset')
    labelled = custom is not None and cfg.get('with_label', True)
    if labelled and getattr(kind, 'load_data_list', None) is custom.load_data_list:
        _check_lines(where, path)


def _kind(name: Any, scope: str) -> type:
    """The class of a data set; ``object`` where it is not known."""
    found = name
    if isinstance(name, str):
        found = None
        with suppress(Exception):
            found = DATASETS.get(name if '.' in name else f'{scope}.{name}')
    return found if isinstance(found, type) else object


def _read_json(where: str, path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(
            f'{where}: {path} is no JSON, or cut off ({path.stat().st_size} bytes; {error}); copy or '
            'write the file again'
        ) from error


def _check_lists(where: str, path: Path, content: Any, needed: tuple[str, ...]) -> None:
    found = content if isinstance(content, dict) else {}
    missing = [key for key in needed if not isinstance(found.get(key), list)]
    if missing:
        there = ', '.join(map(str, list(found)[:10])) or f'a {type(content).__name__}'
        raise InputError(
            f'{where}: {path} is no COCO annotation file: the list {missing[0]!r} is missing (needed: '
            f'{", ".join(needed)}; there: {there})'
        )


def _check_coco(where: str, path: Path, found: Any, cfg: Mapping[str, Any], kind: Any) -> None:
    tested = cfg.get('test_mode')  # a test set need not be annotated
    _check_lists(where, path, found, tuple(k for k in COCO if k != 'annotations' or not tested))
    if not found['images']:
        raise InputError(
            f"{where}: {path} lists no images ('images' is empty); write the file again"
        )
    classes = (cfg.get('metainfo') or {}).get('classes') or getattr(kind, 'METAINFO', {}).get(
        'classes'
    )
    names = [item.get('name') for item in found['categories'] if isinstance(item, dict)]
    if isinstance(classes, (list, tuple)) and not set(classes) & set(names):
        raise InputError(
            f'{where}: none of the classes {_few(classes)} is among the categories of {path}: '
            f'{_few(names)}; name its categories: metainfo=dict(classes=(...)) in the data set'
        )


def _check_lines(where: str, path: Path) -> None:
    for number, line in enumerate(path.read_text(errors='replace').splitlines(), 1):
        parts = line.strip().rsplit(' ', 1)
        if len(parts) != 2 or not parts[1].isdecimal():
            raise InputError(
                f'{where}: {path}, line {number} is {line[:80]!r}; needed: the path of an image, a '
                'space and the number of its class'
            )


def _few(names: Any) -> str:
    shown = [repr(name) for name in names]
    return f'({", ".join(shown[:6])}{", ..." if len(shown) > 6 else ""})'
