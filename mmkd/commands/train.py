"""What ``tools/train.py`` does: from its arguments to a config that trains, and to its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from ..config.conversion import add_hook, add_runtime, distill
from ..errors import InputError
from ..family.building import is_distiller, load_config
from ..files.safety import trusting
from ..files.writing import latest_checkpoint
from ..training.data_faults import FaultHook, answered
from ..training.fast import HOOK as FAST
from ..training.resume import ResumeHook
from ..training.sharding import ShardingHook
from .alarms import AlarmHook
from .live import LiveHook
from .overrides import nested, override
from .runner import (
    build_runner,
    check_files,
    check_weights,
    default_work_dir,
    register_hooks,
    wrong_config,
)
from .summary import SummaryHook
from .teacher_check import refuse_wrong_check
from .yardsticks import YardstickHook, Yardsticks

OTHER_ENGINES = ('FlexibleRunner', 'MMFullyShardedDataParallel')


@wrong_config()
def training_config(
    config: str | Path | Config,
    *,
    work_dir: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    method: str | None = None,
    teacher: str | None = None,
    checkpoint: str | None = None,
    distill_options: Mapping[str, Any] | None = None,
    no_labels: bool | str = False,
    resume: str | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    fast: bool = False,
    launcher: str = 'none',
    trust_checkpoint: bool = False,
    check_teacher: int | None = None,
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
        no_labels: train on images without labels; see :func:`mmkd.distill`.
        resume: ``auto``, or a checkpoint to resume from.
        amp: mixed precision: float16 on GPUs, bfloat16 on CPUs.
        auto_scale_lr: scale the learning rate with the batch size as the config says.
        fast: measure what makes the student's own step faster, and take it; see :class:`mmkd.FastHook`.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        trust_checkpoint: unpickle checkpoints without restriction.
        check_teacher: evaluate the teacher on so many validation images first; 0 for not.
    """
    cfg = load_config(config)
    override(cfg, cfg_options)
    if method is not None:
        cfg = distill(cfg, method, teacher, checkpoint, nested(distill_options), no_labels)
    elif teacher or checkpoint or distill_options or no_labels is not False:
        raise InputError(
            '--teacher, --teacher-checkpoint, --distill-options, --no-labels: need --distill METHOD'
        )
    elif is_distiller(cfg.model):
        add_hook(cfg)
    if _has_scores(cfg.get('train_dataloader')):
        add_hook(cfg, 'mmkd.WeighByScore')
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or default_work_dir(config, method)
    if check_teacher is not None:
        cfg.check_teacher = check_teacher
    refuse_wrong_check(cfg)
    _set_resume(cfg, resume)
    if amp:
        _set_amp(cfg)
    if auto_scale_lr:
        _set_auto_scale_lr(cfg)
    if fast:
        add_runtime(cfg, FAST)
    if trust_checkpoint:
        _trust_teachers(cfg)
    _refuse_other_engines(cfg)
    check_files(cfg, ('train', 'val'), trust_checkpoint)
    return cfg


def train(cfg: Config, trust_checkpoint: bool = False, baseline: str | None = None) -> None:
    """Train a config to its end; what is killed on the way can be resumed exactly.

    Args:
        cfg: of :func:`training_config`.
        trust_checkpoint: unpickle checkpoints without restriction.
        baseline: the work dir of the student alone, whose metrics are shown beside.
    """
    yardsticks = Yardsticks(baseline=None if baseline is None else Path(baseline))
    yardsticks.refuse_no_baseline()
    faults, alarms = FaultHook(), AlarmHook()
    summary, live = SummaryHook(alarms, yardsticks.guide), LiveHook(yardsticks=yardsticks)
    others = (yardsticks.guide, alarms, YardstickHook(yardsticks))
    with (
        summary.told(),
        live.ended(),
        answered(cfg, ('train', 'val'), faults),
        trusting(trust_checkpoint),
    ):
        runner = build_runner(cfg)
        register_hooks(runner, ResumeHook, ShardingHook, faults, *others, summary, live)
        check_weights(cfg, runner, trust_checkpoint)
        runner.train()


def _has_scores(node: Any) -> bool:
    """Whether boxes with scores are among the training data, and these are to weigh."""
    if isinstance(node, Mapping):
        ours = str(node.get('type')).endswith('PseudoCoco')
        return (ours and node.get('weight_by_score', True)) or any(map(_has_scores, node.values()))
    return isinstance(node, (list, tuple)) and any(map(_has_scores, node))


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
