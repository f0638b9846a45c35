"""A config's training data without their labels."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from ..datasets.image_folder import images_in
from ..errors import InputError

NEEDING = (
    'LoadPanopticAnnotations', 'LoadProposals', 'FilterAnnotations', 'CopyPaste', 'MinIoURandomCrop',
    'InstaBoost', 'GenerateEdge', 'GenerateSegmentIndices',
)  # fmt: skip
"""Steps of pipelines that need labels to work with."""
SAMPLERS = ('DefaultSampler', 'InfiniteSampler')
"""Samplers that look at no label."""
LABELLED = 'labelled'
"""Where the config keeps what it was, for the plain student."""
CHANGED = (
    'train_dataloader', 'val_dataloader', 'val_cfg', 'val_evaluator', 'custom_hooks', 'default_hooks',
)  # fmt: skip


def without_labels(cfg: Config, folder: str | Path | None = None) -> None:
    """Train a config on images alone, those of a folder or its own; nothing is validated on the way.

    Args:
        cfg: a student's config; it is changed, and keeps what it was.
        folder: images; by default those of the config's training data.
    """
    kept = {name: copy.deepcopy(cfg[name]) for name in CHANGED if cfg.get(name) is not None}
    loader: Any = cfg.get('train_dataloader')
    if not isinstance(loader, dict) or not isinstance(loader.get('dataset'), dict):
        raise InputError('train_dataloader.dataset: missing in the config; needed for its pipeline')
    images_in(folder or own_images(loader['dataset']))
    loader['dataset'] = _unlabelled(loader['dataset'], folder)
    loader.pop('batch_sampler', None)  # of images of like shapes, which are not known
    if str((loader.get('sampler') or {}).get('type')).rpartition('.')[2] not in SAMPLERS:
        loader['sampler'] = dict(type='DefaultSampler', shuffle=True)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    for hook in cfg.get('custom_hooks') or []:
        for name in hook.keys() & {'switch_pipeline', 'train_pipeline'}:
            hook[name] = _pipeline(hook[name], _seg(loader['dataset']))
    saving = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    for name in ('save_best', 'rule'):
        saving.pop(name, None)
    cfg[LABELLED] = ConfigDict(kept)


def with_labels(cfg: Config) -> None:
    """Put back what :func:`without_labels` has changed.

    >>> cfg = Config(dict(train_dataloader=1, labelled=dict(train_dataloader=2)))
    >>> with_labels(cfg)
    >>> cfg
    Config (path: None): {'train_dataloader': 2}
    """
    for name, value in (cfg.pop(LABELLED, None) or {}).items():
        cfg[name] = value


def own_images(dataset: Mapping[str, Any]) -> Path:
    """The folder in which a data set has its images.

    >>> str(own_images(dict(dataset=dict(data_root='data/coco/', data_prefix=dict(img='train2017/')))))
    'data/coco/train2017'
    """
    inner = dataset
    while 'dataset' in inner or 'datasets' in inner:
        inner = inner['dataset'] if 'dataset' in inner else inner['datasets'][0]
    prefix = inner.get('data_prefix') or ''
    if isinstance(prefix, Mapping):
        prefix = prefix.get('img') or prefix.get('img_path') or ''
    place = Path(inner.get('data_root') or '', prefix, '' if prefix else inner.get('split') or '')
    if place == Path():
        raise InputError(
            f'images without labels: train_dataloader.dataset.type={inner.get("type")!r} names no folder; '
            'give one: --no-labels FOLDER'
        )
    return place


def _unlabelled(dataset: Any, folder: str | Path | None) -> ConfigDict:
    """The same data set without labels; wrappers that mix or repeat images stay."""
    if 'datasets' in dataset:
        return _unlabelled(dataset['datasets'][0], folder)
    if 'dataset' not in dataset:
        info = dataset.get('metainfo')
        return ConfigDict(
            type='mmkd.ImageFolder',
            folder=str(folder or own_images(dataset)),
            pipeline=_pipeline(dataset.get('pipeline') or [], 'Seg' in str(dataset)),
            **(dict(metainfo=info) if info else {}),
        )
    inner = _unlabelled(dataset['dataset'], folder)
    if str(dataset.get('type')).endswith('ClassBalancedDataset'):
        return inner
    outer = copy.deepcopy(dataset)
    outer['dataset'] = inner
    if 'pipeline' in outer:
        outer['pipeline'] = _pipeline(outer['pipeline'], _seg(outer))
    return outer


def _seg(dataset: Any) -> bool:
    """Whether a pipeline makes mmseg's samples, whose labels are images that are read."""
    return 'PackSegInputs' in str(dataset)


def _pipeline(steps: list[Any], seg: bool) -> list[Any]:
    """A pipeline without the steps that need labels."""
    kept = []
    for step in copy.deepcopy(list(steps)):
        name = str(step.get('type')).rpartition('.')[2]
        maps = name == 'LoadAnnotations' and (seg or step.get('with_seg'))
        if name in NEEDING or maps:
            continue
        if name == 'RandomCrop' and seg:
            step.pop('cat_max_ratio', None)
        elif name == 'RandomCrop' and 'crop_size' in step and 'padding' not in step:
            step['allow_negative_crop'] = True
        kept.append(step)
    return kept
