"""SFR (reconstructed): self-feature regularization, deep stages teach shallow ones (withdrawn, 2021)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..core.method import Method, refuse_unordered
from ..core.schedules import Ramp, Schedule, build_schedule
from ..core.step import Side, Step
from ..errors import InputError, refuse_other
from ..family.boxes import annotated_boxes
from ..family.heads import is_sigmoid
from ..family.stages import stage_taps, task_of
from ..family.taps import Features, Tap, parse_taps
from ..losses.smoothing import MODES, LabelCall, label_call, smoothing_rate
from ..losses.transport import (
    CHANNELS,
    DESCRIPTORS,
    SOLVERS,
    Windows,
    box_weights,
    even_window,
    transport_losses,
    windows_of,
)
from ..necks.adapters import as_map
from ..registry import MODELS

NAMES = {
    'smoothing_mode': MODES,
    'pairing': ('last', 'adjacent', 'all'),
    'channels': CHANNELS,
    'normalize': DESCRIPTORS,
    'solver': SOLVERS,
    'source': ('backbone', 'fpn'),
}
"""What the options with names may be."""
WINDOW = 7
"""The largest window by default."""
SIGMOID = '{} is a sigmoid head, whose classes do not exclude one another'
PYRAMID = 0.25
"""Factor of the feature term on a pyramid."""


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
            0.5 over the first tenth of training; detectors 0.25, from a sixth of training to its end.
        smoothing: the largest label smoothing; by default 0.2 for softmax classifiers, 0.1 for the
            foreground of softmax RoI heads, else none. ``None`` or 0 turns it off.
        smoothing_mode: ``confidence``, ``ramp`` (without the confidence) or ``constant``.
        pairing: which stages learn from which: all from the ``last``, each from the next
            (``adjacent``), or each from ``all`` deeper ones.
        channels: ``group`` (means of runs of channels), ``crop`` (the first ones), ``reduce`` (to one).
        normalize: of local descriptors: ``center_l2`` or ``none``.
        window: height and width of a window; by default the fewest windows of at most 7 that cover
            the map, all of one size if possible.
        solver: ``sinkhorn``, ``exact`` or ``sorted``.
        source: ``backbone``, or ``fpn``: a detector's pyramid, each level from the next.
        boxes: whether positions in boxes count more; by default for detectors.
        tap: the stages, shallow to deep, if not the usual ones.
        **options: see :class:`Method`; ``weight`` scales both terms.

    >>> SFR(smoothing=0.1).needs_teacher
    False
    """

    needs_teacher: ClassVar[bool] = False

    def __init__(
        self,
        feature: Any = None,
        smoothing: Any = 'auto',
        smoothing_mode: str = 'confidence',
        pairing: str | None = None,
        channels: str = 'group',
        normalize: str = 'center_l2',
        window: int | None = None,
        solver: str = 'sinkhorn',
        source: str = 'backbone',
        boxes: bool | None = None,
        tap: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        source_pairing = 'adjacent' if source == 'fpn' else 'last'
        self.pairing = source_pairing if pairing is None else pairing
        self.channels, self.normalize, self.window = channels, normalize, window
        self.solver, self.source, self.boxes, self._tap = solver, source, boxes, tap
        self.smoothing, self.smoothing_mode = smoothing, smoothing_mode
        self._feature = feature
        self._check_options()
        self.feature: Schedule | None = None
        self.stage_taps: list[Tap] = []
        self.kept = 0
        self.labels: list[LabelTap] = []
        self._fits = window is None

    # -- set-up ---------------------------------------------------------------------------------

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Take the stages; of detectors the deepest three are regularised."""
        self._check_task(student)
        taps = default_stages(student, self.source) if self._tap is None else parse_taps(self._tap)
        self.stage_taps = self.student_taps = taps
        if self._tap is None and self.source == 'backbone' and task_of(student) == 'detection':
            self.kept = 3

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Choose marginals, schedule and the head whose labels are smoothed."""
        detection = student.task == 'detection'
        self.boxes = detection if self.boxes is None else self.boxes
        if self.boxes and self.solver != 'sinkhorn':
            raise InputError(
                f'SFR: solver={self.solver!r} takes uniform marginals, and boxes=True (the default of '
                "detectors) weighs the positions; take boxes=False, or solver='sinkhorn'"
            )
        self.feature = self._schedule(detection)
        if self.feature is not None:
            refuse_unordered('SFR', student, self.stage_taps)
        self.labels = self._label_taps(student.model)
        # not before: a dry run calls no loss, so these places pass nothing there
        self.student_taps = [*self.stage_taps, *(label.tap for label in self.labels)]
        if self.feature is None and not self.labels:
            raise InputError(
                'SFR: feature=0 and no label smoothing: nothing is left to train; leave one of them in'
            )

    def _schedule(self, detection: bool) -> Schedule | None:
        """The weight of the feature term over progress; None if it has none."""
        if isinstance(self._feature, Mapping) or callable(self._feature):
            return build_schedule(self._feature)
        default = 0.25 if detection else 0.5
        value = default if self._feature is None else self._feature
        if value == 0:
            return None
        return Ramp(value, begin=1 / 6, until=1.0) if detection else Ramp(value, until=0.1)

    def _label_taps(self, student: nn.Module) -> list[LabelTap]:
        """The losses whose labels are smoothed."""
        asked = self.smoothing != 'auto'
        if asked and not self.smoothing:
            return []
        try:
            labels = label_taps(student)
        except InputError as error:
            if asked:
                raise InputError(
                    f'SFR: smoothing={self.smoothing}: {error}; leave smoothing out, or smoothing=None'
                ) from error
            print_log(f'SFR: no label smoothing: {error}', 'current')
            return []
        if not asked:
            self.smoothing = 0.2 if task_of(student) == 'classification' else 0.1
        return labels

    # -- one step -------------------------------------------------------------------------------

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The transport between stages, and the change that smoothing makes to the student's loss."""
        terms = {}
        if self.feature is not None:
            terms['loss_features'] = self._features(step, self.feature(step.progress))
        if self.labels:
            terms.update(self._smoothing(step))
        return terms

    def _features(self, step: Step, weight: float) -> Tensor:
        """The feature term with its weight; a plain 0, and nothing computed, where it has none."""
        if not self._fits:
            self._check_window(self._maps(step))
        if weight == 0:
            return step.inputs.new_zeros(())
        losses = transport_losses(self._problems(step), self.solver)
        factor = PYRAMID if self.source == 'fpn' else 1.0
        return weight * factor * torch.stack(losses).mean()

    def _problems(self, step: Step) -> list[Windows]:
        maps = self._maps(step)
        weights = self._weights(step, maps)
        how = self.channels, self.normalize
        return [
            windows_of(maps[i], maps[j], self._window(maps[j]), *how, weights.get(j))
            for i, j in self._pairs(maps)
        ]

    def _maps(self, step: Step) -> list[Tensor]:
        """The stages' outputs, shallow to deep; of a detector's backbone C3, C4 and C5."""
        tensors = [tensor for tap in self.stage_taps for tensor in step.student[tap]]
        return [as_map(tensor).float() for tensor in tensors[-self.kept :]]

    def _pairs(self, maps: list[Tensor]) -> list[tuple[int, int]]:
        """Shallow and deep of each pair; what is frozen learns nothing, so it is left out."""
        pairs = stage_pairs(len(maps), self.pairing)
        learning = [(i, j) for i, j in pairs if maps[i].requires_grad]
        return learning or pairs

    def _window(self, deep: Tensor) -> tuple[int, int]:
        height, width = (self.window or even_window(n, WINDOW) for n in deep.shape[-2:])
        return height, width

    def _weights(self, step: Step, maps: list[Tensor]) -> dict[int, Tensor]:
        """How much each position of a map counts, by level; empty where all count alike."""
        if not self.boxes:
            return {}
        boxes, image = annotated_boxes(step.samples), step.inputs.shape[-2:]
        return {
            level: box_weights(boxes, maps[level].shape[-2:], image).to(maps[level])
            for level in {deep for _, deep in stage_pairs(len(maps), self.pairing)}
        }

    def _smoothing(self, step: Step) -> dict[str, Tensor]:
        """What smoothing adds to the student's losses, and the mean rate of what is smoothed."""
        total, rates = step.inputs.new_zeros(()), [step.inputs.new_zeros(1)]
        for label in self.labels:
            for call in label.calls(step.student):
                rate = call.smoothed * smoothing_rate(
                    call.logits, call.target, self.smoothing, step.progress, self.smoothing_mode
                )
                if bool(rate.any()):  # a plain 0, without gradient, where nothing is smoothed
                    total = total + call.difference(rate)
                rates.append(rate[call.smoothed])
        smoothed = torch.cat(rates[1:] or rates)
        return {'loss_smoothing': total, 'rate': smoothed.sum() / max(len(smoothed), 1)}

    # -- what is wrong ---------------------------------------------------------------------------

    def _check_options(self) -> None:
        for option, names in NAMES.items():
            refuse_other(f'SFR: {option}', getattr(self, option), names)
        smoothing, feature = self.smoothing, self._feature
        if smoothing not in (None, 'auto') and not (_is_number(smoothing) and smoothing < 1):
            raise InputError(f'SFR: smoothing={smoothing!r}; needed: a number in [0, 1), or None')
        if not (
            feature is None
            or isinstance(feature, Mapping)
            or callable(feature)
            or _is_number(feature)
        ):
            raise InputError(f'SFR: feature={feature!r}; needed: a number >= 0, or a schedule')
        if self.window is not None and not (_is_number(self.window, int) and self.window):
            raise InputError(f'SFR: window={self.window!r}; needed: a whole number from 1 on')
        if self.source == 'fpn' and (self.pairing != 'adjacent' or self._tap is not None):
            raise InputError(
                f"SFR: source='fpn' with pairing={self.pairing!r}, tap={self._tap!r}; on a pyramid each "
                "level learns from the next: leave both out, or take source='backbone'"
            )

    def _check_task(self, student: nn.Module) -> None:
        detection = task_of(student) == 'detection'
        if self.source == 'fpn' and not (detection and hasattr(student, 'neck')):
            raise InputError(
                f"SFR: source='fpn'; {type(student).__name__} is no detector with a neck; take "
                "source='backbone'"
            )
        if self.boxes and not detection:
            raise InputError(
                f'SFR: boxes=True; the samples of {type(student).__name__} ({task_of(student)}) have '
                'no boxes; leave boxes out'
            )

    def _check_window(self, maps: list[Tensor]) -> None:
        """In the first batch, which is the first to tell how large the maps are in training."""
        for _, deep in self._pairs(maps):
            height, width = maps[deep].shape[-2:]
            if self.window is not None and self.window > min(height, width):
                raise InputError(
                    f'SFR: window={self.window} is larger than the map {height}x{width} of the deeper '
                    f'stage; needed: {min(height, width)} at most, or leave window out'
                )
        self._fits = True


@dataclass(frozen=True)
class LabelTap:
    """A loss of class labels: a softmax cross entropy of mmpretrain's or mmdet's form.

    Attributes:
        tap: its inputs.
        weight: what the student's loss multiplies it by.
        class_weight: its weights of the classes.
        background: from which label on there is no object; None where all rows are smoothed.
    """

    tap: Tap
    weight: float
    class_weight: Sequence[float] | None
    background: int | None = None

    def calls(self, features: Features) -> list[LabelCall]:
        """What the loss was called with. A RoI head without boxes does not call it."""
        if self.background is not None and self.tap.place not in features.counts():
            return []
        read = functools.partial(label_call, self.weight, self.class_weight, self.background)
        return [read(*inputs) for inputs in features.calls(self.tap)]


def label_taps(student: Any) -> list[LabelTap]:
    """The losses of a model whose labels can be smoothed, or an answer why there are none."""
    if hasattr(student, 'roi_head'):
        heads = student.roi_head.bbox_head
        if not isinstance(heads, nn.ModuleList):
            return [_label_tap('roi_head.bbox_head', heads, 'loss_cls')]
        return [
            _label_tap(f'roi_head.bbox_head.{index}', head, 'loss_cls', weight)
            for index, (head, weight) in enumerate(zip(heads, student.roi_head.stage_loss_weights))
        ]
    head = getattr(student, 'head', None)
    if task_of(student) == 'classification' and isinstance(head, nn.Module):
        return [_label_tap('head', head, 'loss_module')]
    dense = getattr(student, 'bbox_head', None)
    if isinstance(dense, nn.Module) and is_sigmoid(dense):
        raise InputError(SIGMOID.format(type(dense).__name__))
    raise InputError(
        f'{type(student).__name__} has no softmax head of a classifier or of RoIs, whose labels could '
        'be smoothed'
    )


def _label_tap(name: str, head: nn.Module, attribute: str, weight: float = 1.0) -> LabelTap:
    loss: Any = getattr(head, attribute, None)
    kind = type(head).__name__
    if loss is None:
        raise InputError(f'{kind} has no logits with a loss of their own ({name}.{attribute})')
    if is_sigmoid(head):
        raise InputError(SIGMOID.format(kind))
    if type(loss).__name__ != 'CrossEntropyLoss' or loss.reduction != 'mean':
        raise InputError(
            f'{kind} has the loss {type(loss).__name__}; needed: CrossEntropyLoss, the mean over '
            'samples, to which smoothing is a term'
        )
    background = getattr(head, 'num_classes', 0) if attribute == 'loss_cls' else None
    tap = Tap(f'{name}.{attribute}', source='input')
    return LabelTap(tap, weight * loss.loss_weight, loss.class_weight, background)


def default_stages(student: nn.Module, source: str) -> list[Tap]:
    """Where a model's stages are, shallow to deep."""
    if source == 'fpn':
        return [Tap('neck')]
    if not isinstance(getattr(student, 'backbone', None), nn.Module):
        raise InputError(
            f'SFR: {type(student).__name__} has no backbone; name its stages with tap=[...]'
        )
    maps = task_of(student) in ('detection', 'segmentation')
    if maps and not hasattr(student.backbone, 'res_layers'):
        return [Tap('backbone')]  # inside, transformers hand on tokens of grids that are not square
    return stage_taps(student)


def stage_pairs(count: int, pairing: str) -> list[tuple[int, int]]:
    """Which stages learn (first) from which (second).

    >>> stage_pairs(3, 'last'), stage_pairs(3, 'adjacent'), stage_pairs(3, 'all')
    ([(0, 2), (1, 2)], [(0, 1), (1, 2)], [(0, 1), (0, 2), (1, 2)])
    """
    last = count - 1
    if pairing == 'last':
        return [(shallow, last) for shallow in range(last)]
    if pairing == 'adjacent':
        return [(shallow, shallow + 1) for shallow in range(last)]
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


def _is_number(value: Any, kind: Any = (int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and 0 <= value < math.inf
