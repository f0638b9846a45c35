"""The deployment artefact: the plain student's config and the smallest checkpoint that loads in it."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config

from ..config.conversion import plain_config
from ..errors import InputError
from ..family.building import build_model, load_config, model_config
from ..files.checkpoints import load_fitting, read_checkpoint, weights_of
from ..files.writing import refuse_unwritable


def export_student(
    config: str | Path | Config, checkpoint: str | Path, out: str | Path, trust: bool = False
) -> tuple[Path, Path]:
    """Write ``<out>/student.py`` and ``<out>/student.pth``.

    The checkpoint holds the student's weights under their plain names and the class names of the
    data set; no optimiser, no teacher, no training-only part, no averaged twin.

    Args:
        config: the config that was trained (``<work_dir>/<name>.py``).
        checkpoint: a checkpoint of that run: the latest, the best, an averaged one.
        out: a folder.
        trust: unpickle the checkpoint without restriction.
    """
    cfg = load_config(config)
    plain = plain_config(cfg)
    plain.load_from, plain.resume = None, False
    content = read_checkpoint(checkpoint, trust=trust)
    weights = weights_of(content)
    if not weights:
        raise InputError(f'checkpoint {checkpoint}: holds no model weights')
    load_fitting(build_model(model_config(cfg)), weights, checkpoint)
    meta = content.get('meta') or {}
    kept = {key: meta[key] for key in ('dataset_meta', 'epoch', 'iter') if key in meta}
    target = Path(out)
    refuse_unwritable(target, '--out')
    target.mkdir(parents=True, exist_ok=True)
    torch.save(dict(meta=kept, state_dict=weights), target / 'student.pth')
    plain.dump(target / 'student.py')
    return target / 'student.py', target / 'student.pth'
