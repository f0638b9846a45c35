"""What ``mmkd label`` does: a teacher's answers on images, written once as labels with scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from mmengine.registry import DATASETS, DefaultScope
from pycocotools import mask as coco_mask
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..config.conversion import plain_config
from ..datasets.image_list import Image, ImageList, find_images
from ..errors import InputError
from ..family.building import build_model, load_config, model_config
from ..family.heads import class_count
from ..family.stages import task_of
from ..files.checkpoints import classes_of, load_fitting, read_checkpoint, weights_of
from ..files.safety import trusting
from .overrides import override
from .pseudo_files import Entry, PartFile, coco_file, list_file
from .runner import wrong_config

AT_ONCE = 50
"""Images that are written together; so many are done again after a kill."""


@dataclass(frozen=True)
class Labeller:
    """A network that labels images, and what its answers are called."""

    model: nn.Module
    task: str
    classes: tuple[str, ...]
    categories: tuple[dict[str, Any], ...]
    threshold: float

    def entry(self, image: Image, sample: Any) -> Entry:
        """What is written of an image."""
        if self.task == 'classification':
            return self._classified(image, sample)
        found = sample.pred_instances
        height, width = sample.ori_shape
        shape = dict(id=image.id, file_name=image.name, height=height, width=width)
        kept = (found.scores >= self.threshold).nonzero().flatten().tolist()
        boxes = [self._annotation(image, found, index) for index in kept]
        return dict(id=image.id, image=shape, annotations=boxes)

    def _annotation(self, image: Image, found: Any, index: int) -> dict[str, Any]:
        left, top, right, bottom = (exact(value) for value in found.bboxes[index])
        category = self.categories[int(found.labels[index])]['id']
        box = [left, top, right - left, bottom - top]
        entry = dict(image_id=image.id, category_id=category, bbox=box, area=box[2] * box[3])
        entry.update(iscrowd=0, score=exact(found.scores[index]))
        if 'masks' in found:
            mask = np.asfortranarray(np.asarray(torch.as_tensor(found.masks[index]), np.uint8))
            entry['segmentation'] = coco_mask.encode(mask)
            entry['segmentation']['counts'] = entry['segmentation']['counts'].decode()
            entry['area'] = int(mask.sum())
        return entry

    def _classified(self, image: Image, sample: Any) -> Entry:
        scores = sample.pred_score
        if scores.max() < self.threshold:
            return dict(id=image.id)
        data = dict(
            img_path=image.name,
            gt_label=int(scores.argmax()),
            gt_score=[exact(score) for score in scores],
        )
        return dict(id=image.id, data=data)


def exact(value: Tensor) -> float:
    """A number of single precision in as few digits as tell it.

    >>> exact(torch.tensor(0.1))
    0.1
    """
    return float(str(np.float32(value.item())))


@wrong_config()
def labelling_config(
    config: str | Path | Config, cfg_options: Mapping[str, Any] | None = None
) -> Config:
    """The plain config of a network that labels; its test pipeline makes the images."""
    cfg = plain_config(load_config(config))
    override(cfg, cfg_options)
    return cfg


def label(
    config: str | Path | Config,
    checkpoint: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    score_thr: float = 0.3,
    root: str | Path | None = None,
    batch_size: int | None = None,
    workers: int = 2,
    cfg_options: Mapping[str, Any] | None = None,
    trust_checkpoint: bool = False,
) -> Path:
    """Write a network's answers on images: of a detector a COCO file, of a classifier a list of soft labels.

    A run that is stopped goes on where it was when it is called again alike.

    Args:
        config: of the network, plain or a Distiller's, whose student labels.
        checkpoint: its weights.
        images: a folder, a text file of names, or a COCO file.
        out: the file to write.
        score_thr: boxes below are left out; of a classifier images.
        root: where names are relative to; by default the folder, or that of the file.
        batch_size: by default that of the config's test data loader.
        workers: processes that read images.
        cfg_options: overrides of the config.
        trust_checkpoint: unpickle the checkpoint without restriction.
    """
    if not 0 <= score_thr <= 1:
        raise InputError(f'--score-thr {score_thr}: needed: a number from 0 to 1')
    cfg = labelling_config(config, cfg_options)
    pipeline, count = _pipeline(cfg), batch_size or int(cfg.test_dataloader.get('batch_size', 1))
    every = find_images(images, root)
    with trusting(trust_checkpoint), DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        labeller = _labeller(cfg, checkpoint, images, score_thr, trust_checkpoint)
        about = dict(checkpoint=_mark(checkpoint), images=str(images), root=str(root))
        part = PartFile(Path(out), dict(about, score_thr=score_thr, classes=labeller.classes))
        done = part.done()
        left = [image for image in every if image.id not in done]
        reader = ImageList(left, pipeline)
        batches: Any = DataLoader(
            reader,  # type: ignore[arg-type]
            count,
            num_workers=min(workers, len(left)),
            collate_fn=list,
        )
        _fill(part, labeller, batches, len(every), len(done))
    _finish(part, labeller, len(every))
    return Path(out)


@torch.no_grad()
def _fill(part: PartFile, labeller: Labeller, batches: Any, total: int, done: int) -> None:
    """Label what is left, and write it as it comes."""
    waiting: list[Entry] = []
    shown = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*shown, console=Console(stderr=True)) as progress:
        bar = progress.add_task('images', total=total, completed=done)
        for batch in batches:
            waiting += _entries(labeller, batch)
            if len(waiting) >= AT_ONCE:
                part.add(waiting)
                waiting = []
            progress.advance(bar, len(batch))
    part.add(waiting)


def _entries(labeller: Labeller, batch: Sequence[tuple[Image, Any]]) -> Iterator[Entry]:
    good = [(image, made) for image, made in batch if not isinstance(made, str)]
    for image, reason in batch:
        if isinstance(reason, str):
            print_log(f'image {image.path}: left out: {reason}', 'current', 30)
            yield dict(id=image.id, bad=reason)
    if good:
        samples = labeller.model.test_step(pseudo_collate([made for _, made in good]))  # type: ignore[operator]
        for (image, _), sample in zip(good, samples):
            yield labeller.entry(image, sample)


def _finish(part: PartFile, labeller: Labeller, total: int) -> None:
    bad = [entry for entry in part.entries() if 'bad' in entry]
    if len(bad) == total:
        part.path.unlink()
        raise InputError(f'IMAGES: none of the {total} could be read: {bad[0]["bad"]}')
    if bad:
        print_log(f'{len(bad)} of {total} images could not be read', 'current', 30)
    if labeller.task == 'classification':
        part.finish(list_file(part, labeller.classes))
    else:
        part.finish(coco_file(part, labeller.categories))


def _labeller(
    cfg: Config, checkpoint: str | Path, images: str | Path, threshold: float, trust: bool
) -> Labeller:
    model = build_model(model_config(cfg))
    task = task_of(model)
    if task not in ('detection', 'classification'):
        raise InputError(
            f'label: {type(model).__name__} is neither a detector nor a classifier; a student of others learns '
            'from images without labels by --distill kd --no-labels FOLDER'
        )
    content = read_checkpoint(checkpoint, trust=trust)
    load_fitting(model, weights_of(content), checkpoint)
    model.eval()
    model.to('cuda' if torch.cuda.is_available() else 'cpu')
    classes = _classes(cfg, model, classes_of(content))
    return Labeller(model, task, classes, _categories(classes, images), threshold)


def _classes(cfg: Config, model: nn.Module, stored: Sequence[str] | None) -> tuple[str, ...]:
    """The names of a network's classes: the config's, else the checkpoint's, else the data set's."""
    dataset = _dataset(cfg)
    given = (dataset.get('metainfo') or {}).get('classes')
    kind = DATASETS.get(str(dataset.get('type')))
    known = (getattr(kind, 'METAINFO', None) or {}).get('classes')
    names = given or stored or known
    names = tuple(str(name) for name in names) if isinstance(names, (list, tuple)) else ()
    count = class_count(model)[1]
    if not names and count is not None and task_of(model) == 'classification':
        return tuple(map(str, range(count)))  # folders had given the names
    if not names or (count is not None and len(names) != count):
        raise InputError(
            f'label: {len(names)} names for the {count} classes of {type(model).__name__}; needed in the '
            'config: test_dataloader.dataset.metainfo=dict(classes=(...))'
        )
    return names


def _categories(classes: Sequence[str], images: str | Path) -> tuple[dict[str, Any], ...]:
    """Categories in the order of the classes, with the numbers of a COCO file that names the images."""
    numbers: dict[str, Any] = {}
    if Path(images).suffix == '.json':
        listed = json.loads(Path(images).read_text()).get('categories') or []
        numbers = {str(entry['name']): entry['id'] for entry in listed}
    if not {*classes} <= numbers.keys():
        numbers = {name: number for number, name in enumerate(classes, 1)}
    return tuple(dict(id=numbers[name], name=name) for name in classes)


def _dataset(cfg: Config) -> Any:
    loader = cfg.get('test_dataloader')
    if not isinstance(loader, dict) or not isinstance(loader.get('dataset'), dict):
        raise InputError('test_dataloader.dataset: missing in the config; needed for its pipeline')
    dataset = loader['dataset']
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset


def _pipeline(cfg: Config) -> list[Any]:
    """The config's test pipeline without labels, which these images have not."""
    steps = _dataset(cfg).get('pipeline') or []
    return [step for step in steps if 'Annotations' not in str(step.get('type'))]


def _mark(path: str | Path) -> str:
    """A file by name and size."""
    place = Path(path)
    return f'{path} ({place.stat().st_size} bytes)' if place.is_file() else str(path)
