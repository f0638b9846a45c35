"""From a config to OpenMMLab's Runner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..files.checkpoints import read_checkpoint
from ..files.data import check_datasets
from ..files.safety import protect
from ..training.processes import prepare_ranks


def build_runner(cfg: Config) -> Runner:
    """Build the config's Runner; within ``mmkd.trusting()`` its checkpoints can execute code."""
    protect()
    prepare_ranks(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def check_files(cfg: Config, parts: tuple[str, ...], trust_checkpoint: bool = False) -> None:
    """Answer data sets and checkpoints that are missing or cannot be read, before anything is built."""
    check_datasets(cfg, parts)
    if (source := cfg.get('load_from')) is not None:
        content = read_checkpoint(source, trust=trust_checkpoint)
        if cfg.get('resume'):
            _take_seed(cfg, content)


def register_hooks(runner: Any, *hooks: type[Hook]) -> None:
    """Add hooks that the config does not have; only the usual Runner has a use for them."""
    for hook in hooks if isinstance(runner, Runner) else ():
        if not any(isinstance(given, hook) for given in runner.hooks):
            runner.register_hook(hook())


def default_work_dir(config: str | Path | Config, method: str | None) -> str:
    """Where a training's files go if nobody says: named after the config and the method."""
    name = config.filename if isinstance(config, Config) else str(config)
    stem = Path(str(name or 'config').split('::')[-1]).stem
    return str(Path('work_dirs', stem if method is None else f'{stem}_{method}'))


def _take_seed(cfg: Config, checkpoint: Mapping[str, Any]) -> None:
    """Resume with the checkpoint's seed where the config has none: samplers are built with it."""
    randomness = dict(cfg.get('randomness') or {})
    seed = (checkpoint.get('meta') or {}).get('seed')
    if randomness.get('seed') is None and seed is not None:
        cfg.randomness = {**randomness, 'seed': seed}
