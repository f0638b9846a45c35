"""Data sets of a config, checked before anything is built: their files are there and can be read."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from ..errors import InputError

SMALL = 64 * 2**20
"""Annotation files up to this size are read beforehand; larger ones only where training has failed."""
COCO = ('images', 'annotations', 'categories')
READ = {
    'images': ('id', 'file_name', 'width', 'height'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
    'categories': ('id', 'name'),
}
"""What a data set reads of each entry of these lists."""
COMPARED = {
    'images': ('id',),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd'),
    'categories': ('id',),
}
"""What an evaluator reads of them."""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


FORMS: Mapping[str, Callable[[Any], bool]] = {
    'width': _is_number,
    'height': _is_number,
    'area': _is_number,
    'bbox': lambda box: isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)),
}
"""What some keys must be."""


def check_datasets(cfg: Config, parts: tuple[str, ...]) -> None:
    """Answer data that are missing and annotation files that are damaged."""
    for where, dataset in datasets(cfg, parts):
        _check_paths(where, dataset)
        classes = (dataset.get('metainfo') or {}).get('classes')
        if isinstance(classes, str) and not Path(classes).is_file():
            raise InputError(
                f'{where}.metainfo.classes={classes!r}: a text that names no file; needed: a list or tuple '
                f'of names; of a single class with its comma: ({classes!r},)'
            )
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
            content = _read_json(where, path)
            _check_lists(where, path, content, COCO)
            _check_entries(where, path, content, COMPARED)


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
    coco: Any = next(base for base in kind.__mro__ if base.__name__ == 'CocoDataset')
    if kind.parse_data_info is coco.parse_data_info:  # others read other keys
        _check_entries(where, path, found, READ)
        _refuse_shared_ids(where, path, found['images'])
        _tell_left_out(where, path, found)
    classes = (cfg.get('metainfo') or {}).get('classes') or getattr(kind, 'METAINFO', {}).get(
        'classes'
    )
    names = [item.get('name') for item in found['categories'] if isinstance(item, dict)]
    if isinstance(classes, (list, tuple)) and not set(classes) & set(names):
        raise InputError(
            f'{where}: none of the classes {_few(classes)} is among the categories of {path}: '
            f'{_few(names)}; name its categories: metainfo=dict(classes=(...)) in the data set'
        )


def _check_entries(
    where: str, path: Path, found: Mapping[str, Any], needed: Mapping[str, tuple[str, ...]]
) -> None:
    """Answer the first entry of a COCO file that lacks what is read of it."""
    for part, names in needed.items():
        for number, entry in enumerate(found.get(part) or []):
            missing = [n for n in names if n not in entry] if isinstance(entry, dict) else names
            if missing:
                raise InputError(
                    f'{where}: {path}: {part}[{number}] has no {missing[0]!r}: {json.dumps(entry)[:120]}; '
                    f'needed: {", ".join(names)}'
                )
            for name in (n for n in names if n in FORMS and not FORMS[n](entry[n])):
                raise InputError(
                    f'{where}: {path}: {part}[{number}]: {name}={entry[name]!r:.80}; needed: '
                    + ('left, top, width, height' if name == 'bbox' else 'a number')
                )


def _refuse_shared_ids(where: str, path: Path, images: list[Any]) -> None:
    """Stop if images share an id: the last of them would get the annotations of all."""
    counts = Counter(image['id'] for image in images)
    shared = [name for name, count in counts.items() if count > 1]
    if shared:
        files = [image['file_name'] for image in images if image['id'] == shared[0]]
        raise InputError(
            f'{where}: {path}: {len(shared)} ids stand for several images each: {_few(shared)} (the first for '
            f'{_few(files)}); give each image an id of its own'
        )


def _tell_left_out(where: str, path: Path, found: Mapping[str, Any]) -> None:
    """Say how many annotations data sets leave out without a word."""
    images = {image['id']: image for image in found['images']}
    categories = {item['id'] for item in found['categories']}
    kinds: dict[str, list[Any]] = {}
    for item in found.get('annotations') or []:
        if item['image_id'] not in images:
            kinds.setdefault('are of images that are not listed', []).append(item['id'])
        elif item['category_id'] not in categories:
            kinds.setdefault('are of categories that are not listed', []).append(item['id'])
        elif not _is_seen(item['bbox'], images[item['image_id']]):
            kinds.setdefault('have no box with an extent in its image', []).append(item['id'])
    for what, names in kinds.items():
        print_log(
            f'{where}: {path}: {len(names)} annotations {what} and are left out (ids {_few(names)})',
            'current',
            logging.WARNING,
        )


def _is_seen(box: list[float], image: Mapping[str, Any]) -> bool:
    """Whether a box has an extent, of which a part lies in the image."""
    if not all(map(math.isfinite, box)):
        return False
    x, y, width, height = box
    inside = min(x + width, image['width']) > max(x, 0) and min(y + height, image['height']) > max(
        y, 0
    )
    return inside and width >= 1 and height >= 1


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
