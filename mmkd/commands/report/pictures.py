"""Pictures for the page: what the student alone, the distilled one and the teacher find on the same images."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ...errors import InputError
from ...family.building import load_config
from ..arms import ALONE
from ..picture import compare_images, draw_comparison
from ..rank_teachers import scoring_config
from ..test import evaluate
from .numbers import Numbers
from .runs import Training

SCORE = 0.3
"""Boxes of at least this score are drawn, whichever detector gives them."""

Detector = tuple[str, str]
"""A config and a checkpoint."""


def draw_pictures(
    trainings: Sequence[Training], numbers: Numbers, rows: int, picture: Path, trust: bool = False
) -> str:
    """Draw the images on which alone and distilled differ most, both ways in proportion; the sentence below.

    Args:
        trainings: one of the student alone, and one that distils, are shown.
        numbers: say which arm is the best.
        rows: how many images.
        picture: the PNG to write.
        trust: unpickle checkpoints without restriction.
    """
    alone, distilled = pair_of(trainings, numbers)
    cfg = load_config(config_file(distilled))
    refuse_other_data(cfg)
    detectors = dict(alone=trained(alone), distilled=trained(distilled))
    teacher = teacher_of(distilled.config)
    if teacher is not None:
        detectors['teacher'] = teacher
    boxes = {name: boxes_of(cfg, *of, trust) for name, of in detectors.items()}
    coco = json.loads(Path(cfg.val_evaluator.ann_file).read_text())
    chosen, caption = compare_images(coco, boxes, SCORE, rows)
    data = cfg.val_dataloader.dataset
    folder = Path(data.get('data_root') or '', (data.get('data_prefix') or {}).get('img', ''))
    draw_comparison(picture, folder, chosen, '')  # the page has the sentence
    return caption


def pair_of(trainings: Sequence[Training], numbers: Numbers) -> tuple[Training, Training]:
    """A training of the best arm and one of the student alone, of one seed where there is one."""
    rows = [row for row in numbers.rows if row.arm != ALONE]
    best = max(rows, key=lambda row: row.mean, default=None)
    others = [t for t in trainings if best is not None and t.arm == best.arm]
    alone = [t for t in trainings if t.arm == ALONE]
    if not others or not alone:
        raise InputError(
            '--pictures: needs a training that distils and one of the student alone (--baseline DIR), '
            'both with a validation'
        )
    pairs = [(a, d) for d in others for a in alone if a.seed == d.seed]
    return pairs[0] if pairs else (alone[0], others[0])


def config_file(training: Training) -> str:
    """The config that a training has dumped."""
    files = sorted(training.folder.glob('*/vis_data/config.py'))
    if not files:
        raise InputError(f'--pictures: {training.folder}: no config was dumped there')
    return str(files[-1])


def trained(training: Training) -> Detector:
    """The config and the last checkpoint of a training."""
    note = training.folder / 'last_checkpoint'
    name = Path(note.read_text().strip()).name if note.exists() else ''
    checkpoint = training.folder / name
    if not checkpoint.is_file():
        raise InputError(f'--pictures: {training.folder}: no checkpoint is there')
    return config_file(training), str(checkpoint)


def teacher_of(config: Mapping[str, Any]) -> Detector | None:
    """The config and the checkpoint of the only teacher; None where there are none or several, or no file."""
    spec = (config.get('model') or {}).get('teacher') or {}
    own, weights = str(spec.get('config')), str(spec.get('checkpoint'))
    return (own, weights) if Path(own).is_file() and Path(weights).is_file() else None


def refuse_other_data(cfg: Config) -> None:
    """Stop where the boxes of a validation are not written in COCO's form."""
    kind = cfg.val_evaluator.get('type') if isinstance(cfg.val_evaluator, Mapping) else None
    if str(kind).rpartition('.')[2] != 'CocoMetric' or not cfg.val_evaluator.get('ann_file'):
        raise InputError(
            f'--pictures: val_evaluator.type={kind!r}; pictures are of detectors that CocoMetric evaluates '
            'with its ann_file'
        )


def boxes_of(cfg: Config, config: str, checkpoint: str, trust: bool = False) -> list[Any]:
    """What a detector finds on the validation images."""
    with tempfile.TemporaryDirectory() as folder:
        own = copy.deepcopy(cfg)
        own.val_evaluator.outfile_prefix = f'{folder}/boxes'
        evaluate(scoring_config(own, config, checkpoint, folder, trust), trust)
        return json.loads(Path(folder, 'boxes.bbox.json').read_text())
