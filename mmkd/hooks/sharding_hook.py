"""The hook that shards what ``model_wrapper_cfg=dict(type='mmkd.FullyShard')`` asks for."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from ..errors import InputError
from ..ranks import gather_objects
from ..registry import HOOKS
from ..sharding import Sharding, shard, share_of, whole_states
from .distillation_hook import DistillationHook


@HOOKS.register_module()
class ShardingHook(Hook):
    """Shards the model when training begins, and gathers it for checkpoints.

    Everything before, initial weights and resuming included, is as without shards; checkpoints are whole,
    so a training can be resumed with shards or without.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Shard the model, its optimisers and averages."""
        model: Any = runner.model
        options: Sharding | None = vars(model).pop('sharding', None)
        if options is None:
            return
        refuse_uneven_validation(runner)
        del model.train_step
        wrapper: Any = runner.optim_wrapper
        wrappers = list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        own = [
            o
            for h in runner.hooks
            if isinstance(h, DistillationHook)
            for o in h.optimizers.values()
        ]
        averages = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
        shard(model, options, [w.optimizer for w in wrappers] + own, averages)
        save = runner.save_checkpoint

        def save_whole(*args: Any, **kwargs: Any) -> None:
            with whole_states([model, *wrappers, *own, *averages]):
                save(*args, **kwargs)

        runner.save_checkpoint = save_whole
        print_log(
            f'sharded: this rank holds {share_of(model) / 2**20:.1f} MiB of weights', 'current'
        )

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        """What is not in blocks stays gathered after a forward without a backward."""
        if hasattr(runner.model, 'reshard'):
            runner.model.reshard()


def refuse_uneven_validation(runner: Runner) -> None:
    """Stop if ranks would validate different numbers of batches, of which the last gathers alone."""
    if runner.val_loop is None:
        return
    counts = gather_objects(len(runner.val_dataloader))
    if len(set(counts)) > 1:
        raise InputError(
            f'val_dataloader: the ranks have {counts} batches, and a sharded model needs as many on each; '
            'set val_dataloader.sampler.round_up=True'
        )
