"""SFR (reconstructed): self-feature regularization, deep stages teach shallow ones (withdrawn, 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..core.levels import refuse_unordered
from ..core.method import Method, Taps
from ..core.options import Count, Share
from ..core.schedules import Ramp, Schedule, Weight, build_schedule
from ..core.step import Side, Step
from ..errors import InputError
from ..family.boxes import annotated_boxes
from ..family.heads import head_kind, is_sigmoid, logit_taps
from ..family.passing import several_stages
from ..family.stages import backbone_of, task_of
from ..family.taps import Tap, parse_taps
from ..losses.smoothing import LabelLoss
from ..losses.transport import box_weights, even_window, transport_loss
from ..necks.adapters import as_map
from ..registry import MODELS

LABEL_LOSSES = {'vector': 'loss_module', 'roi': 'loss_cls'}
"""Where a head, by its kind, keeps the loss of its labels."""


@MODELS.register_module()
class SFR(Method):
    """Deep features of the student regularise its shallow ones; labels are smoothed dynamically.

    ``L = CE(smoothed) + feature rho(t) mean_i EMD(F_i, stop_gradient(F_L))``, after the abstract of
    "SFR: Self-Feature Regularization" (2021), a withdrawn paper of which nothing else is left. It
    fixes that deep features supervise shallow ones, an EMD-l2 loss of local features, many-to-one
    distillation of channels, and dynamic label smoothing. All else is ours: docs/methods/sfr.md.

    The student's own loss is left as it is. Cross entropy is linear in its target, so smoothing is a
    term beside it: ``eps_b (mean_k(-log p_k) - CE_b)``, with
    ``eps_b = smoothing t / T stop_gradient(<p_b, y_b>)``.

    Args:
        feature: weight of the feature term: a number, which is warmed up, or a schedule. By default
            0.05 over the first tenth of training; detectors 0.25, from a sixth of training to its end.
        smoothing: the largest label smoothing; by default 0.2 for softmax classifiers, 0.1 for the
            foreground of softmax RoI heads, else none. ``None`` or 0 turns it off.
        pairing: which stages learn from which: all from the ``last``, or each from the next
            (``adjacent``).
        window: the largest height and width of a window; maps are cut into the fewest windows that
            cover them, all of one size if possible.
        solver: ``exact`` or ``sinkhorn``; by default exact unless ``boxes``, which it does not take.
        boxes: of detectors: whether positions in boxes count more.
        tap: the stages, shallow to deep, if not the usual ones.
        **options: see :class:`Method`; ``weight`` scales both terms.

    >>> SFR(smoothing=0.1).needs_teacher
    False
    """

    needs_teacher: ClassVar[bool] = False
    ramped: ClassVar[bool] = True

    def __init__(
        self,
        feature: Weight | None = None,
        smoothing: Annotated[float, Share(open=True)] | Literal['auto'] | None = 'auto',
        pairing: Literal['last', 'adjacent'] = 'last',
        window: Count = 7,
        solver: Literal['exact', 'sinkhorn'] | None = None,
        boxes: bool = False,
        tap: Taps | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._rate, self.pairing, self.window = smoothing, pairing, window
        self.solver, self.boxes = solver, boxes
        self._feature, self._tap = feature, tap
        self.feature: Schedule | None = None
        self.stage_taps: list[Tap] = []
        self.kept = 0
        self.largest_rate = 0.0
        self.labels: list[tuple[Tap, LabelLoss]] = []

    # -- set-up ---------------------------------------------------------------------------------

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Take the stages; of detectors the deepest three are regularised."""
        taps = default_stages(student) if self._tap is None else parse_taps(self._tap)
        self.stage_taps = self.student_taps = taps
        self.kept = 3 if self._tap is None and task_of(student) == 'detection' else 0

    def reads_labels(self, student: nn.Module) -> str | None:
        return 'SFR regularises a training with labels'

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Choose marginals, solver, schedule and the head whose labels are smoothed."""
        self._choose_solver(student)
        self.feature = self._schedule(student.task)
        if self.feature is not None:
            refuse_unordered('SFR', student, self.stage_taps)
        self.labels = self._label_losses(student.model)
        # not before: a dry run calls no loss, so these places pass nothing there
        self.student_taps = [*self.stage_taps, *(tap for tap, _ in self.labels)]
        if self.feature is None and not self.labels:
            raise InputError(
                'SFR: feature=0 and no label smoothing: nothing is left to train; leave one of them in'
            )

    def _choose_solver(self, student: Side) -> None:
        if self.boxes and student.task != 'detection':
            raise InputError(
                f'SFR: boxes=True; the samples of {type(student.model).__name__} ({student.task}) '
                'have no boxes; leave boxes out'
            )
        if self.boxes and self.solver == 'exact':
            raise InputError(
                "SFR: solver='exact' takes positions that count alike, and boxes=True weighs them; leave "
                'one of them out'
            )
        self.solver = self.solver or ('sinkhorn' if self.boxes else 'exact')

    def _schedule(self, task: str) -> Schedule | None:
        """The weight of the feature term over progress; None if it has none."""
        detection, value = task == 'detection', self._feature
        if isinstance(value, Mapping) or callable(value):
            return build_schedule(value)
        if value is None:
            value = 0.25 if detection else 0.05
        if value == 0:
            return None
        return Ramp(value, begin=1 / 6, until=1.0) if detection else Ramp(value, until=0.1)

    def _label_losses(self, student: nn.Module) -> list[tuple[Tap, LabelLoss]]:
        """The losses whose labels are smoothed."""
        smoothing: Any = self._rate
        if not smoothing:
            return []
        try:
            labels = label_losses(student)
        except InputError as error:
            if smoothing != 'auto':
                raise InputError(
                    f'SFR: smoothing={smoothing}: {error}; leave smoothing out, or smoothing=None'
                ) from error
            print_log(f'SFR: no label smoothing: {error}', 'current')
            return []
        if smoothing == 'auto':
            smoothing = 0.2 if task_of(student) == 'classification' else 0.1
        self.largest_rate = smoothing
        return labels

    # -- one step -------------------------------------------------------------------------------

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The transport between stages, and the change that smoothing makes to the student's loss."""
        terms = {}
        if self.feature is not None:
            weight = self.feature(step.progress)
            terms['loss_features'] = weight * self._features(step) if weight else _zero(step)
        if self.labels:
            terms.update(self._smoothing(step))
        return terms

    def _features(self, step: Step) -> Tensor:
        """The mean over pairs of stages; what is frozen learns nothing, so it is left out."""
        maps, weights = self._maps(step), {}
        pairs = stage_pairs(len(maps), self.pairing)
        pairs = [(i, j) for i, j in pairs if maps[i].requires_grad] or pairs
        if self.boxes:
            boxes, image = annotated_boxes(step.samples), step.inputs.shape[-2:]
            weights = {
                j: box_weights(boxes * (len(maps[j]) // len(boxes)), maps[j].shape[-2:], image)
                for _, j in pairs
            }
        losses = []
        for i, j in pairs:
            height, width = (even_window(n, self.window) for n in maps[j].shape[-2:])
            branches = len(maps[j]) // len(maps[i])  # that a deeper stage runs (TridentNet)
            shallow = maps[i].repeat(branches, 1, 1, 1)
            cut = shallow, maps[j], (height, width), weights.get(j)
            losses.append(transport_loss(*cut, solver=self.solver or 'exact'))
        return torch.stack(losses).mean()

    def _maps(self, step: Step) -> list[Tensor]:
        """The stages' outputs, shallow to deep; of a detector's backbone C3, C4 and C5."""
        tensors = [tensor for tap in self.stage_taps for tensor in step.student[tap]]
        return [as_map(tensor).float() for tensor in tensors[-self.kept :]]

    def _smoothing(self, step: Step) -> dict[str, Tensor]:
        """What smoothing adds to the student's losses, and the mean rate of what is smoothed."""
        largest = self.largest_rate * step.progress
        total, rates = _zero(step), [step.inputs.new_zeros(0)]
        for tap, loss in self.labels:
            if loss.background is not None and tap.place not in step.student.counts():
                continue  # a RoI head without boxes does not call its loss
            for inputs in step.student.calls(tap):
                grown, rate = loss.smoothed(largest, *inputs)
                total = total + grown
                rates.append(rate)
        rate = torch.cat(rates)
        return {'loss_smoothing': total, 'rate': rate.sum() / max(len(rate), 1)}


def label_losses(student: nn.Module) -> list[tuple[Tap, LabelLoss]]:
    """The losses of a model whose labels can be smoothed, or an answer why there are none."""
    kind, modules = head_kind(student), dict(student.named_modules())
    weights = getattr(modules.get('roi_head'), 'stage_loss_weights', [1.0])
    found = []
    for tap, weight in zip(logit_taps(student), weights):
        head = modules.get(tap.at)
        loss: Any = getattr(head, LABEL_LOSSES.get(kind, ''), None)
        if head is None or not _smoothable(head, loss):
            has = 'no loss of labels' if loss is None else f'the loss {type(loss).__name__}'
            raise InputError(
                f'the {kind} head of {type(student).__name__} has {has}; needed: the mean softmax '
                'CrossEntropyLoss of a classifier or of RoIs'
            )
        background = head.num_classes if kind == 'roi' else None
        own = LabelLoss(weight * loss.loss_weight, loss.class_weight, background)
        found.append((Tap(f'{tap.at}.{LABEL_LOSSES[kind]}', source='input'), own))
    return found


def _smoothable(head: nn.Module, loss: Any) -> bool:
    softmax = type(loss).__name__ == 'CrossEntropyLoss' and not is_sigmoid(head)
    return softmax and loss.reduction == 'mean'


def default_stages(student: nn.Module) -> list[Tap]:
    """Where a model's stages are, shallow to deep."""
    name = backbone_of(student)
    maps = task_of(student) in ('detection', 'segmentation')
    if maps and not hasattr(student.get_submodule(name), 'res_layers'):
        return [Tap(name)]  # inside, transformers hand on tokens of grids that are not square
    return several_stages(student)


def stage_pairs(count: int, pairing: str) -> list[tuple[int, int]]:
    """Which stages learn (first) from which (second).

    >>> stage_pairs(3, 'last'), stage_pairs(3, 'adjacent')
    ([(0, 2), (1, 2)], [(0, 1), (1, 2)])
    """
    last = count - 1
    return [(i, last if pairing == 'last' else i + 1) for i in range(last)]


def _zero(step: Step) -> Tensor:
    return step.inputs.new_zeros(())
