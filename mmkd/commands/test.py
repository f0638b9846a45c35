"""What ``tools/test.py`` does: a config and its checkpoint, evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from ..config.conversion import plain_config
from ..errors import InputError
from ..family.building import load_config
from ..files.safety import trusting
from ..training.data_faults import FaultHook, answered
from .overrides import override
from .runner import (
    build_runner,
    check_files,
    check_weights,
    default_work_dir,
    register_hooks,
    wrong_config,
)


@wrong_config()
def evaluation_config(
    config: str | Path | Config,
    checkpoint: str,
    *,
    work_dir: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    launcher: str = 'none',
    tta: bool = False,
    trust_checkpoint: bool = False,
) -> Config:
    """The config that ``tools/test.py`` evaluates: of a distillation, its plain student."""
    cfg = plain_config(load_config(config))
    override(cfg, cfg_options)
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or default_work_dir(config, None)
    cfg.load_from, cfg.resume = checkpoint, False
    if tta:
        _set_tta(cfg)
    check_files(cfg, ('test',), trust_checkpoint)
    return cfg


def evaluate(cfg: Config, trust_checkpoint: bool = False) -> dict[str, float]:
    """Evaluate a config's checkpoint; the metrics."""
    faults = FaultHook()
    with answered(cfg, ('test',), faults), trusting(trust_checkpoint):
        runner = build_runner(cfg)
        register_hooks(runner, faults)
        check_weights(cfg, runner, trust_checkpoint, whole=True)
        return runner.test()


def _set_tta(cfg: Config) -> None:
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise InputError(
            '--tta: the config has no tta_model and tta_pipeline; take those of the toolbox '
            "(mmdet: _base_ 'mmdet::_base_/datasets/coco_detection.py' and a rtmdet config show them)"
        )
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
