"""Objects with scores weigh in a detector's own loss as much as these say."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..datasets.scores import unpack_scores
from ..family.scored import weigh_by_scores
from ..registry import HOOKS
from .method_optimizers import bare


@HOOKS.register_module()
class WeighByScore(Hook):
    """Train a detector on boxes that have scores (``gt_instances.scores``); others weigh 1.

    ``custom_hooks = [dict(type='mmkd.WeighByScore')]`` in any mmdet config; ``mmkd train`` adds it where a
    data set is ``mmkd.PseudoCoco``. See :mod:`mmkd.family.scored`.
    """

    def __init__(self) -> None:
        self._open = ExitStack()

    def before_train(self, runner: Runner) -> None:
        """Weigh from now on."""
        self._open = weigh_by_scores(bare(runner))

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict[str, Any] | None = None
    ) -> None:
        """Scores that are still in the labels of mixed images become scores."""
        samples = (data_batch or {}).get('data_samples')
        for sample in samples if isinstance(samples, (list, tuple)) else ():
            unpack_scores(sample)

    def after_train(self, runner: Runner) -> None:
        """Leave the model as it was."""
        self._open.close()
