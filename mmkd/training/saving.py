"""When a Runner's hooks write checkpoints, and how."""

from __future__ import annotations

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner


def given_backend(hook: CheckpointHook) -> bool:
    """Whether the config says where and how checkpoints are written."""
    return bool(hook.backend_args or hook.file_client_args)


def saves_now(hook: Hook, runner: Runner) -> bool:
    """Whether a hook writes a checkpoint after this iteration."""
    if not isinstance(hook, CheckpointHook) or hook.by_epoch:
        return False
    every = hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
    return every or (hook.save_last and hook.is_last_train_iter(runner))
