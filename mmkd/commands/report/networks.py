"""The networks of trainings as their last checkpoints have them, and the validation images they are shown."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DATASETS, DefaultScope
from rich.console import Console
from rich.progress import track
from torch import nn

from ...core.engine import Distillation
from ...core.teacher import Teacher
from ...errors import InputError
from ...family.building import build_model, load_config, model_config
from ...family.heads import class_count
from ...family.stages import task_of
from ...files.checkpoints import PREFIX, load_fitting, load_weights, read_checkpoint, weights_of
from ...files.safety import trusting
from ..arms import ALONE
from .numbers import Numbers
from .runs import Training


@dataclass
class Data:
    """Images of a validation set.

    Attributes:
        dataset: as its config builds it.
        places: which of its images, by index.
        scope: of the toolbox whose pipeline reads them.
        batch: how many are run at once, as in a validation.
    """

    dataset: Any
    places: list[int]
    scope: str | None = None
    batch: int = 1

    @property
    def classes(self) -> list[str]:
        """The names of its classes."""
        return [str(name) for name in self.dataset.metainfo.get('classes') or ()]

    @functools.cached_property
    def areas(self) -> Mapping[Any, float]:
        """Areas of objects by image and box, where a file in COCO's form has them: those of masks, say."""
        path = Path(str(getattr(self.dataset, 'ann_file', '')))
        if path.suffix != '.json' or not path.is_file():
            return {}
        content = json.loads(path.read_text())
        objects = content.get('annotations', []) if isinstance(content, dict) else []
        return {
            (one['image_id'], *map(round, one['bbox'])): one['area']
            for one in objects
            if 'area' in one
        }

    def file(self, place: int) -> str:
        """Where an image lies; empty where it is no file."""
        return str(self.dataset.get_data_info(place).get('img_path') or '')

    def batches(self, places: Sequence[int], size: int) -> Iterator[Mapping[str, Any]]:
        """Raw batches of some images, as a data loader gives them."""
        with DefaultScope.overwrite_default_scope(self.scope):
            for start in range(0, len(places), size):
                yield pseudo_collate([self.dataset[i] for i in places[start : start + size]])


@dataclass
class Networks:
    """What is looked at.

    Attributes:
        distilled: the student that was distilled.
        alone: the plain one, if there is one.
        distillation: what was added to the distilled student; None where its teacher is not to be had.
        missing: why not.
        said: which checkpoints these are.
    """

    distilled: nn.Module
    alone: nn.Module | None = None
    distillation: Distillation | None = None
    missing: str = ''
    said: str = ''

    @property
    def teacher(self) -> Teacher | None:
        """The first teacher."""
        teachers = self.distillation.teachers if self.distillation is not None else {}
        return next(iter(teachers.values()), None)

    @property
    def predictors(self) -> dict[str, nn.Module]:
        """Whose predictions are compared: of the teacher only if it knows the same classes."""
        found = {} if self.alone is None else dict(alone=self.alone)
        found['distilled'] = self.distilled
        teacher = self.teacher and self.teacher.model
        alike = teacher is not None and all(
            tell(teacher) == tell(self.distilled) for tell in (task_of, lambda m: class_count(m)[1])
        )
        return {**found, 'teacher': teacher} if alike else found  # type: ignore[dict-item]


def validation_data(cfg: Config, images: int) -> Data:
    """So many images of a config's validation set, evenly over all of it."""
    loader = cfg.get('val_dataloader')
    if loader is None:
        raise InputError('the config has no val_dataloader')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        dataset = DATASETS.build(loader.dataset)
    count = min(images, len(dataset))
    places = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    scope, batch = cfg.get('default_scope'), loader.get('batch_size') or 1
    return Data(dataset, [int(place) for place in places], scope, batch)


def chosen_trainings(
    trainings: Sequence[Training], numbers: Numbers
) -> tuple[Training | None, Training]:
    """A training of the student alone if there is one, and one of the best arm; of one seed where that is."""
    rows = [row for row in numbers.rows if row.arm != ALONE]
    best = max(rows, key=lambda row: row.mean, default=None)
    others = [t for t in trainings if t.methods and best is not None and t.arm == best.arm]
    others = others or [t for t in trainings if t.methods]
    alone = [t for t in trainings if t.arm == ALONE]
    if not others:
        raise InputError('no training here distils')
    pairs = [(a, d) for d in others for a in alone if a.seed == d.seed]
    return pairs[0] if pairs else (alone[0] if alone else None, others[0])


def load_networks(alone: Training | None, distilled: Training, trust: bool = False) -> Networks:
    """Build what two trainings have trained, with the last weights of each."""
    cfg, path, missing = load_config(config_file(distilled)), last_checkpoint(distilled), ''
    content = read_checkpoint(path, trust=trust)
    try:
        with trusting(trust):
            student: Any = build_model({**cfg.model, **_preprocessor(cfg)})
        load_weights(student, weights_of(content))
        load_fitting(student.distillation, _added(content), path)
    except InputError as error:  # above all a teacher that is not here any more
        missing, student = str(error), build_model(model_config(cfg))
        load_fitting(student, weights_of(content), path)
    networks = Networks(student, None, getattr(student, 'distillation', None), missing)
    if alone is not None:
        networks.alone = build_model(model_config(load_config(config_file(alone))))
        path = last_checkpoint(alone)
        load_fitting(networks.alone, weights_of(read_checkpoint(path, trust=trust)), path)
    used = [training for training in (alone, distilled) if training is not None]
    networks.said = ', '.join(f'{t.folder.name}/{last_checkpoint(t).name}' for t in used)
    for network in (networks.distilled, networks.alone):
        if network is not None:
            network.to(get_device())
            network.train(False)  # of some detectors eval() does not return them
    return networks


def _preprocessor(cfg: Config) -> dict[str, Any]:
    """What the Runner adds to a model from the top level of a config."""
    own = {'_scope_': cfg.get('default_scope')}
    if cfg.get('data_preprocessor') is not None and 'data_preprocessor' not in cfg.model:
        own['data_preprocessor'] = cfg.data_preprocessor
    return own


def _added(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What distillation has added to the student: projections and the like."""
    state = content['state_dict']
    return {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}


def config_file(training: Training) -> str:
    """The config that a training has dumped."""
    files = sorted(training.folder.glob('*/vis_data/config.py'))
    if not files:
        raise InputError(f'{training.folder}: no config was dumped there')
    return str(files[-1])


def last_checkpoint(training: Training) -> Path:
    """The last checkpoint of a training that does not run."""
    if training.state == 'running':
        raise InputError(
            f'{training.folder.name} still trains ({training.progress}); write the page again when it is done'
        )
    note = training.folder / 'last_checkpoint'
    path = training.folder / (Path(note.read_text().strip()).name if note.exists() else '')
    if not path.is_file():
        raise InputError(f'{training.folder}: no checkpoint is there')
    return path


def predictions(model: nn.Module, data: Data, name: str) -> Iterator[tuple[int, Any]]:
    """What a network says of each image, by the image's place."""
    batches: Iterable[Any] = track(
        data.batches(data.places, data.batch),
        f'{name}: {len(data.places)} images',
        total=-(-len(data.places) // data.batch),
        console=Console(stderr=True),
    )
    places = iter(data.places)
    for batch in batches:
        with torch.no_grad():
            samples = model.test_step(batch)  # type: ignore[operator]
        for sample, place in zip(samples, places):  # in this order: no place is taken for nothing
            yield place, sample
