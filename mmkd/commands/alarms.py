"""Warnings at the start of a training: what is set so that distillation can hardly help."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..collectives import world_size
from ..core.method import Method
from ..core.schedules import progress
from ..core.shares import SHARE
from ..family.stages import task_of
from ..training.method_optimizers import bare, methods_of

LOW, HIGH = 0.01, 0.9
"""A method whose gradient share is outside of these pulls at nothing, or alone."""
PATIENCE = 3
"""So many measurements in a row tell."""


def rate_alarm(settings: Mapping[str, Any], batch: int | None, ranks: int = 1) -> str | None:
    """What is to be said of a learning rate that is for other batches.

    Args:
        settings: the Runner's config.
        batch: images of a rank in an iteration; None if unknown.
        ranks: how many train together.

    >>> wrapper = dict(optimizer=dict(lr=0.02))
    >>> print(rate_alarm(dict(auto_scale_lr=dict(base_batch_size=16), optim_wrapper=wrapper), 4))
    optim_wrapper.optimizer.lr=0.02 is for batches of 16 (auto_scale_lr.base_batch_size), these have 4; by the \
linear rule 0.005: --auto-scale-lr
    """
    scaling = settings.get('auto_scale_lr') or {}
    wrapper = settings.get('optim_wrapper') or {}
    base, rate = scaling.get('base_batch_size'), (wrapper.get('optimizer') or {}).get('lr')
    summed = wrapper.get('accumulative_counts') or 1
    if scaling.get('enable') or not (base and batch and rate) or base == batch * ranks * summed:
        return None
    real = batch * ranks * summed
    factors = [f'{batch}', *([f'{ranks} ranks'] if ranks > 1 else [])]
    factors += [f'{summed} accumulated'] if summed > 1 else []
    how = f' ({" x ".join(factors)})' if len(factors) > 1 else ''
    # mmengine's own scaling does not count what is accumulated
    wanted = f'{rate * real / base:.4g}'
    cure = (
        '--auto-scale-lr' if summed == 1 else f'--cfg-options optim_wrapper.optimizer.lr={wanted}'
    )
    return (
        f'optim_wrapper.optimizer.lr={rate} is for batches of {base} (auto_scale_lr.base_batch_size), these '
        f'have {real}{how}; by the linear rule {wanted}: {cure}'
    )


def share_alarm(name: str, method: Method, share: float, task: str) -> str | None:
    """What is to be said of a method that pulls at its taps far too little, or almost alone."""
    if method.share is not None or LOW <= share <= HIGH or (share < LOW and not full(method)):
        return None
    target = method.shares.get(task, SHARE)
    factor = target * (1 - share) / max(share, 1e-9)
    sense = (
        'so it changes next to nothing of what the student learns'
        if share < LOW
        else 'so the student hardly learns its task any more'
    )
    return (
        f'{name}: {share:.2%} of the gradient at its taps is its own (measured {PATIENCE} times), {sense}. '
        f"weight='auto' sets the weight by this share: {factor:.3g} times the present one would make it "
        f'{target / (1 + target):.0%} (--distill-options {name}.weight=auto)'
    )


def full(method: Method) -> bool:
    """Whether a method has its full weight; not on the way up a ramp, of its own terms either."""
    most = max(method.weight(i / 100) for i in range(101))
    return not method.ramped and method.weight(progress()) >= 0.99 * most


class AlarmHook(Hook):
    """Says once what is set so that distillation can hardly help; ``said`` has it all."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self._measured = 0
        self._shares: dict[str, list[float]] = {}
        self._warned: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """The learning rate."""
        loader = runner.train_dataloader
        self._say(rate_alarm(runner.cfg, batch_size(loader), world_size()))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """The gradient shares, each time that they were measured."""
        methods = methods_of(runner)
        if not methods or bare(runner).distillation.shares.measured == self._measured:
            return
        self._measured = bare(runner).distillation.shares.measured
        logged = runner.message_hub.log_scalars
        for name in methods.keys() - self._warned:
            if (history := logged.get(f'train/{name}/share')) is not None:
                own = self._shares.setdefault(name, [])
                own.append(float(history.current()))
                self._judge(name, methods[name], own[-PATIENCE:], task_of(bare(runner)))

    def _judge(self, name: str, method: Method, last: list[float], task: str) -> None:
        if len(last) < PATIENCE or not (max(last) < LOW or min(last) > HIGH):
            return
        text = share_alarm(name, method, sum(last) / PATIENCE, task)
        if text is not None:
            self._warned.add(name)
            self._say(text)

    def _say(self, text: str | None) -> None:
        if text is not None:
            self.said.append(text)
            print_log(text, 'current', logging.WARNING)


def batch_size(loader: Any) -> int | None:
    """How many images a rank has in a batch; None where a sampler of its own decides."""
    own = getattr(loader, 'batch_size', None)
    return own or getattr(getattr(loader, 'batch_sampler', None), 'batch_size', None)
