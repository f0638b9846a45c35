"""CrossKD: cross-head knowledge distillation for object detection (CVPR 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..collectives import world_size
from ..core.levels import channels_of, levels_of
from ..core.likeness import (
    refuse_boxes,
    refuse_other_classes,
    refuse_other_heads,
    refuse_other_shapes,
    refuse_softmax,
)
from ..core.method import Method
from ..core.options import Count, NonNegative
from ..core.step import Side, Step
from ..errors import InputError
from ..family.mimicry import Mimicry
from ..family.taps import Features, Tap, capture, flatten
from ..family.towers import Tower, answering, refuse_without_towers
from ..losses.alignment import aligned
from ..necks.adapters import Adapter
from ..registry import MODELS

HEAD = Tap('bbox_head', source='input')
"""What a dense head is given."""


@MODELS.register_module()
class CrossKD(Method):
    """The student's maps pass through the rest of the teacher's head; what comes out follows the teacher.

    In each tower of convolutions the student's map before the last but ``last`` convolution's activation
    is standardised, channel by channel over images and positions, and given the mean and spread of the
    teacher's map there; it is activated and goes through the teacher's remaining convolutions and
    predictions, which are frozen. Of these predictions x, y and the teacher's own t, u::

        L = classes / n sum_i sum_c BCE(x_ic, sigmoid(t_ic)) |sigmoid(x_ic) - sigmoid(t_ic)|
            + boxes sum_i w_i d(y_i, u_i) / sum_i w_i,     w_i = max_c sigmoid(t_ic)

    n anchors hold an object in the student's own loss; d is the KL of the bins, the mean of four sides,
    or 1 - GIoU. docs/methods/cross_kd.md says what is published and where we differ.

    Args:
        classes: weight of the classes.
        boxes: weight of the boxes; by default 4 for bins, 1 for others, none where boxes do not compare.
        last: how many of the teacher's convolutions the student's maps pass.
        **options: see :class:`Method`.

    >>> CrossKD(last=2).last
    2
    """

    runs_teacher = True

    def __init__(
        self,
        classes: NonNegative = 1.0,
        boxes: NonNegative | None = None,
        last: Count = 1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.classes, self.boxes, self.last = classes, boxes, last
        self.models: list[nn.Module] = []  # no submodules
        self.mimicry: Mimicry | None = None
        self.towers: tuple[list[Tower], list[Tower]] = ([], [])
        self.maps: tuple[list[Tap], list[Tap]] = ([], [])
        self.adapters = nn.ModuleList()

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Find the towers of both heads."""
        assert teacher is not None
        self.models = [student, teacher]
        for model, owner in ((student, 'the student'), (teacher, 'the teacher')):
            refuse_other_heads('CrossKD', model, 'dense', owner)
        refuse_softmax('CrossKD', student)
        ours, theirs = self.towers = (
            refuse_without_towers('CrossKD', student, 'the student'),
            refuse_without_towers('CrossKD', teacher, 'the teacher'),
        )
        self.mimicry = Mimicry.of(student, teacher, overlap=False)
        if self.boxes and self.mimicry.boxes is None:
            refuse_boxes('CrossKD', self.boxes, student)
        self.maps = self._maps(ours, student), self._maps(theirs, teacher)
        self.student_taps = [*self.maps[0], *self.mimicry.taps]
        self.teacher_taps = [*self.maps[1], *self.mimicry.taps, HEAD, *map(Tap, self._earlier)]

    def reads_labels(self, student: nn.Module) -> str | None:
        return 'CrossKD takes part in the losses of the labels'

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Build adapters where the towers' channels differ; then listen to the student's loss."""
        assert teacher is not None
        assert self.mimicry is not None
        refuse_other_classes('CrossKD', student, teacher)
        taps = self.mimicry.taps
        refuse_other_shapes('CrossKD', student, teacher, (taps, taps))
        self._refuse_other_towers(student, teacher)
        for ours, theirs in zip(*self.maps):
            channels = [channels_of(*side)[0] for side in ((student, [ours]), (teacher, [theirs]))]
            self.adapters.append(Adapter(*channels))
        # not before: a dry run calls no loss, and predictions of the student are looked at there alone
        self.student_taps = [*self.maps[0], *self.mimicry.losses]

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms that have weight."""
        assert self.mimicry is not None
        ours, theirs, student = step.student, step.answers(), self.models[0]
        counted = self.mimicry.counted(theirs, ours, student)
        levels, total = aligned(list(self._pairs(ours, theirs)), counted)
        counts = total.clamp_min(1.0) / world_size()
        found = self.mimicry.terms(self._crossed(levels, theirs), theirs, counts, student)
        bins = self.mimicry.boxes is not None and self.mimicry.boxes.bins
        weights = dict(
            classes=self.classes, boxes=(4.0 if bins else 1.0) if self.boxes is None else self.boxes
        )
        return {f'loss_{k}': weights[k] * term for k, term in found.items() if weights[k]}

    def _crossed(self, levels: list[Tensor], teacher: Features) -> Features:
        """What the teacher's head gives with the student's maps inside."""
        guide = self.models[1]
        answers = {name: [t.float() for t in teacher[Tap(name)]] for name in self._earlier}
        for tower, tap in zip(self.towers[1], self.maps[1]):
            name = tower.names[tower.place(self.last)]
            own, levels = levels[: len(teacher[tap])], levels[len(teacher[tap]) :]
            conv: Any = guide.get_submodule(name)
            answers[name] = [conv.activate(x) for x in own] if conv.with_activation else own
        maps = [x.float() for x in flatten(teacher.calls(HEAD)[0])]
        # of a teacher in a fast form lower
        dtype = next(p.dtype for p in guide.get_submodule(name).parameters() if p.dim() == 4)
        with (
            torch.autocast(maps[0].device.type, dtype, enabled=dtype != torch.float32),
            capture(guide, [('bbox_head', 'output')]) as features,
            answering(guide, answers),
        ):
            guide.bbox_head(tuple(maps))  # type: ignore[operator]
        return features

    def _pairs(self, student: Features, teacher: Features) -> Iterator[tuple[Tensor, Tensor]]:
        """The maps of both sides, tower by tower and level by level."""
        for adapter, ours, theirs in zip(self.adapters, *self.maps):
            for s, t in zip(student[ours], teacher[theirs]):
                yield adapter(s.float(), t.shape[-2:]), t.float()

    @property
    def _earlier(self) -> list[str]:
        """The teacher's convolutions before those that the student's maps enter behind."""
        return [n for tower in self.towers[1] for n in tower.names[: tower.place(self.last)]]

    def _maps(self, towers: list[Tower], model: nn.Module) -> list[Tap]:
        return [tower.before_activation(model, tower.place(self.last)) for tower in towers]

    def _refuse_other_towers(self, student: Side, teacher: Side) -> None:
        assert self.mimicry is not None
        levels = len(student.shapes[self.mimicry.taps[0]])
        counts = [
            (len(taps), len(levels_of(side, taps)))
            for side, taps in zip((student, teacher), self.maps)
        ]
        if counts[0] != counts[1] or counts[0][1] % levels:
            raise InputError(
                f'CrossKD: {student.owner} has {counts[0][0]} towers, which {counts[0][1]} maps pass for '
                f'{levels} levels, {teacher.owner} {counts[1][0]} for {counts[1][1]} maps; needed: heads of '
                'one kind, each level through towers of its own or all through the same. bckd, pkd and cwd '
                'do without'
            )
