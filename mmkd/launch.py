"""What ``tools/train.py`` and ``tools/test.py`` do: from arguments to a config, and to OpenMMLab's Runner."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from .checkpoints import read_checkpoint
from .configs import is_distiller, load_config, model_config
from .datafiles import check_datasets
from .distill import add_hook, distill
from .errors import InputError
from .faults import FaultHook, answered
from .hooks import ResumeHook, ShardingHook
from .ranks import leave_ranks, prepare_ranks
from .storage import latest_checkpoint

FORCE_SAFE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
"""With this set, no ``torch.load`` of the process can execute code, whoever calls it."""


OTHER_ENGINES = ('FlexibleRunner', 'MMFullyShardedDataParallel')


def training_config(
    config: str | Path | Config,
    *,
    work_dir: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    method: str | None = None,
    teacher: str | None = None,
    checkpoint: str | None = None,
    distill_options: Mapping[str, Any] | None = None,
    resume: str | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    launcher: str = 'none',
    trust_checkpoint: bool = False,
) -> Config:
    """The config that ``tools/train.py`` trains; every wrong input is answered here or while the Runner builds.

    Args:
        config: any project's config, or a Distiller's.
        work_dir: where logs and checkpoints go; by default the config's, or ``work_dirs/<name>``.
        cfg_options: overrides of the config, by dotted key.
        method: distil the plain config by these methods (``pkd+kd``).
        teacher: the teacher's config.
        checkpoint: the teacher's checkpoint.
        distill_options: options of methods and teacher, by dotted key (``pkd.weight``).
        resume: ``auto``, or a checkpoint to resume from.
        amp: mixed precision: float16 on GPUs, bfloat16 on CPUs.
        auto_scale_lr: scale the learning rate with the batch size as the config says.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        trust_checkpoint: unpickle checkpoints without restriction.
    """
    cfg = load_config(config)
    cfg.merge_from_dict(dict(cfg_options or {}))
    if method is not None:
        cfg = distill(cfg, method, teacher, checkpoint, nested(distill_options or {}))
    elif teacher or checkpoint or distill_options:
        raise InputError(
            '--teacher, --teacher-checkpoint, --distill-options: need --distill METHOD'
        )
    elif is_distiller(cfg.model):
        add_hook(cfg)
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or _default_work_dir(config, method)
    _set_resume(cfg, resume)
    if amp:
        _set_amp(cfg)
    if auto_scale_lr:
        _set_auto_scale_lr(cfg)
    if trust_checkpoint:
        _trust_teachers(cfg)
    _refuse_other_engines(cfg)
    check_files(cfg, ('train', 'val'), trust_checkpoint)
    return cfg


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
    cfg.merge_from_dict(dict(cfg_options or {}))
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or _default_work_dir(config, None)
    cfg.load_from, cfg.resume = checkpoint, False
    if tta:
        _set_tta(cfg)
    check_files(cfg, ('test',), trust_checkpoint)
    return cfg


def build_runner(cfg: Config, trust_checkpoint: bool = False) -> Runner:
    """Build the config's Runner; unless files are trusted, no checkpoint of this process can execute code."""
    if not trust_checkpoint:
        os.environ[FORCE_SAFE] = '1'
    prepare_ranks(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def train(cfg: Config, trust_checkpoint: bool = False) -> None:
    """Train a config to its end; what is killed on the way can be resumed exactly."""
    with answered(cfg, ('train', 'val')):
        runner = build_runner(cfg, trust_checkpoint)
        _register(runner, ResumeHook, ShardingHook, FaultHook)
        runner.train()


def evaluate(cfg: Config, trust_checkpoint: bool = False) -> dict[str, float]:
    """Evaluate a config's checkpoint; the metrics."""
    with answered(cfg, ('test',)):
        runner = build_runner(cfg, trust_checkpoint)
        _register(runner, FaultHook)
        return runner.test()


def plain_config(cfg: Config) -> Config:
    """A distillation config with the plain student in its place and nothing of mmkd; others stay as they are.

    >>> from mmkd import distill
    >>> cfg = distill('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', 'pkd',
    ...               teacher='t.py', checkpoint='t.pth')
    >>> plain_config(cfg).model.type, 'custom_hooks' in plain_config(cfg)
    ('RetinaNet', False)
    """
    plain = load_config(cfg)
    if not is_distiller(plain.model):
        return plain
    plain.model = model_config(plain)
    plain.model.pop('_scope_', None)
    _strip_list(plain, 'custom_hooks', lambda hook: str(hook.get('type')).startswith('mmkd.'))
    imports = plain.get('custom_imports')
    if imports is not None:
        _strip_list(imports, 'imports', lambda name: name == 'mmkd')
        if not imports.get('imports'):
            plain.pop('custom_imports')
    return plain


def check_files(cfg: Config, parts: tuple[str, ...], trust_checkpoint: bool = False) -> None:
    """Answer data sets and checkpoints that are missing or cannot be read, before anything is built."""
    check_datasets(cfg, parts)
    if (source := cfg.get('load_from')) is not None:
        content = read_checkpoint(source, trust=trust_checkpoint)
        if cfg.get('resume'):
            _take_seed(cfg, content)


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as a nest of dicts.

    >>> nested({'pkd.weight': 3.0, 'teacher.precision': 'bf16'})
    {'pkd': {'weight': 3.0}, 'teacher': {'precision': 'bf16'}}
    """
    result: dict[str, Any] = {}
    for key, value in options.items():
        *path, last = key.split('.')
        place = result
        for name in path:
            place = place.setdefault(name, {})
        place[last] = value
    return result


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that training and testing share."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help="overrides of the config (before it is distilled): key=value, lists as 'key=[a,b]'",
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='unpickle checkpoints without restriction; they can execute code',
    )


def run_tool(main: Callable[[], Any]) -> None:
    """Run a tool; wrong input ends it with one message and exit status 2 instead of a traceback."""
    status: Any = None
    try:
        main()
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        status = 2
    except SystemExit as stop:
        status = stop.code
    leave_ranks()  # here, where nothing of the run is alive any more
    if status is not None:
        sys.exit(status)


def _register(runner: Any, *hooks: type[Hook]) -> None:
    """Add hooks that the config does not have; only the usual Runner has a use for them."""
    for hook in hooks if isinstance(runner, Runner) else ():
        if not any(isinstance(given, hook) for given in runner.hooks):
            runner.register_hook(hook())


# -- parts of a training config --------------------------------------------------------------------


def _default_work_dir(config: str | Path | Config, method: str | None) -> str:
    name = config.filename if isinstance(config, Config) else str(config)
    stem = Path(str(name or 'config').split('::')[-1]).stem
    return str(Path('work_dirs', stem if method is None else f'{stem}_{method}'))


def _refuse_other_engines(cfg: Config) -> None:
    """mmengine's own FSDP clips gradients by the norm of each rank's shard."""
    wrapper = (cfg.get('model_wrapper_cfg') or {}).get('type')
    for option, value in {
        'runner_type': cfg.get('runner_type'),
        'model_wrapper_cfg.type': wrapper,
    }.items():
        if value in OTHER_ENGINES and is_distiller(cfg.model):
            raise InputError(
                f"{option}={value}: distillation runs on mmengine's Runner; leave {option} out, and to "
                "shard weights over ranks set model_wrapper_cfg=dict(type='mmkd.FullyShard')"
            )


def _set_resume(cfg: Config, resume: str | None) -> None:
    """Find the checkpoint to go on from."""
    automatic = resume == 'auto' or (
        resume is None and cfg.get('resume') and not cfg.get('load_from')
    )
    if automatic:
        found = latest_checkpoint(cfg.work_dir)
        if found is None:
            print_log(f'resume: no checkpoint in {cfg.work_dir}; training starts', 'current')
            cfg.resume = False
            return
        resume = str(found)
    if resume is not None:
        cfg.resume, cfg.load_from = True, resume


def _take_seed(cfg: Config, checkpoint: Mapping[str, Any]) -> None:
    """Resume with the checkpoint's seed where the config has none: samplers are built with it."""
    randomness = dict(cfg.get('randomness') or {})
    seed = (checkpoint.get('meta') or {}).get('seed')
    if randomness.get('seed') is None and seed is not None:
        cfg.randomness = {**randomness, 'seed': seed}


def _set_amp(cfg: Config) -> None:
    if torch.cuda.is_available():
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    else:
        cfg.optim_wrapper.type = 'mmkd.CpuAmpOptimWrapper'


def _set_auto_scale_lr(cfg: Config) -> None:
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise InputError(
            '--auto-scale-lr: the config does not say for which batch its learning rate is; add '
            'auto_scale_lr=dict(base_batch_size=16)'
        )
    cfg.auto_scale_lr.enable = True


def _trust_teachers(cfg: Config) -> None:
    spec = cfg.model.get('teacher') if is_distiller(cfg.model) else None
    for teacher in [] if spec is None else [spec] if 'config' in spec else spec.values():
        teacher.trust_checkpoint = True


def _set_tta(cfg: Config) -> None:
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise InputError(
            '--tta: the config has no tta_model and tta_pipeline; take those of the toolbox '
            "(mmdet: _base_ 'mmdet::_base_/datasets/coco_detection.py' and a rtmdet config show them)"
        )
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline


def _strip_list(holder: Any, key: str, unwanted: Callable[[Any], bool]) -> None:
    """Drop the unwanted from a list in a config, and the list if nothing is left."""
    values = holder.get(key)
    if values is None:
        return
    values = [values] if isinstance(values, str) else values
    kept = [value for value in values if not unwanted(value)]
    if kept:
        holder[key] = kept
    else:
        holder.pop(key)
