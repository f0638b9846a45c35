"""KD-DETR: distillation of detection transformers at points that both are asked about (CVPR 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ..collectives import drawn, mean_count, uploaded
from ..core.likeness import refuse_other_classes, refuse_other_heads
from ..core.method import Method
from ..core.options import AtLeast, NonNegative
from ..core.step import Side, Step
from ..errors import InputError
from ..family.decoding import (
    Queries,
    decode,
    numbers_of,
    own_queries,
    point_taps,
    random_queries,
    refuse_other_decoders,
)
from ..family.heads import is_sigmoid, logit_head
from ..family.taps import Tap
from ..losses.pearson import pearson_distance
from ..losses.queries import Found, certainty, query_distances
from ..registry import MODELS

MEMORY, HEAD = Tap('encoder'), Tap('bbox_head')


@MODELS.register_module()
class KDDETR(Method):
    """The student's decoder is asked the teacher's queries, and random ones, and answers as the teacher's.

    Of each set of queries, the teacher's own and those at random points, and each decoder layer l::

        L = sum_l sum_i w_i (classes KL(s_i, t_i) + l1 |b_i - u_i|_1 + giou (1 - GIoU(b_i, u_i))) / sum_i w_i
            + memory (1 - r(M_s, M_t)),     w_i = max_c p(t_ic)

    r is Pearson's, channel by channel, of the encoders' outputs. docs/methods/kd_detr.md says what is
    published and where we differ.

    Args:
        classes: weight of the classes.
        l1: weight of the L1 distance of the boxes.
        giou: weight of their overlap.
        memory: weight of the encoders' outputs, which must then have the same positions.
        random: how many queries are at random points; by default as many as the teacher has of its own.
        seed: of the random points.
        **options: see :class:`Method`.

    >>> KDDETR(random=100).terms['l1']
    5.0
    """

    runs_teacher = True

    def __init__(
        self,
        classes: NonNegative = 1.0,
        l1: NonNegative = 5.0,
        giou: NonNegative = 2.0,
        memory: NonNegative = 0.0,
        random: Annotated[int, AtLeast(0)] | None = None,
        seed: Annotated[int, AtLeast(0)] = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.terms = dict(classes=classes, l1=l1, giou=giou)
        self.memory, self.random = memory, random
        self.rng = torch.Generator().manual_seed(seed)
        self.models: list[nn.Module] = []  # no submodules

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Both must have decoders that take queries of others."""
        assert teacher is not None
        for model, owner in ((student, 'the student'), (teacher, 'the teacher')):
            refuse_other_heads('KDDETR', model, 'query', owner)
            refuse_other_decoders('KDDETR', model, owner)
        self.models = [student, teacher]
        self.student_taps = [*point_taps(), MEMORY]
        self.teacher_taps = [*self.student_taps, HEAD]

    def reads_labels(self, student: nn.Module) -> str | None:
        return "KDDETR runs the student's decoder and head, which are trained with labels alone"

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Both take the same queries, and have the same classes."""
        assert teacher is not None
        refuse_other_classes('KDDETR', student, teacher)
        ours, theirs = (
            {tap.item: shapes[0][-1] for tap in point_taps() if (shapes := side.shapes[tap])}
            for side in (student, teacher)
        )
        if ours != theirs:
            raise InputError(
                f'KDDETR: a query of {student.owner} is {_words(ours)}, one of {teacher.owner} '
                f'{_words(theirs)}; needed: decoders of one kind and width. For others: kd, pkd, cwd'
            )
        own, other = (tuple(side.shapes[MEMORY][0]) for side in (student, teacher))
        if self.memory and own != other:
            raise InputError(
                f'KDDETR: memory={self.memory!r}: the encoder of {student.owner} gives {own}, that of '
                f'{teacher.owner} gives another number of positions: {other}; leave it out, or take pkd'
            )

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms that have weight."""
        sets = [self._compared(found, told) for found, told in self._asked(step)]
        counts = mean_count(torch.stack([sure for _, sure in sets]))
        sums = torch.stack([apart for apart, _ in sets], 1)
        found = dict(zip(self.terms, (sums / counts).flatten(1).sum(1)))
        losses = {f'loss_{k}': self.terms[k] * term for k, term in found.items() if self.terms[k]}
        if self.memory:
            sides = (step.student[MEMORY][0], step.answers()[MEMORY][0])
            maps = [side.float().transpose(1, 2)[..., None] for side in sides]
            losses['loss_memory'] = self.memory * pearson_distance(maps[0], maps[1])
        return losses

    def reaches_student(self, term: str) -> bool:
        """Boxes need not at first: a fresh head's last layer is 0, and their gradient ends there."""
        return term not in ('loss_l1', 'loss_giou')

    def training_state(self) -> Any:
        """The state of the generator of random points."""
        return self.rng.get_state()

    def resume_training(self, state: Any) -> None:
        """Go on with it."""
        self.rng.set_state(state)

    def _asked(self, step: Step) -> Iterator[tuple[Found, Found]]:
        """What both find with the teacher's queries, and with those at random points."""
        student, theirs = self.models[0], step.answers()
        own = own_queries(theirs)
        classes, boxes = theirs[HEAD]
        yield decode(student, step.student, own), (classes.float(), boxes.float())
        others = self._random(own)
        if others is not None:
            yield decode(student, step.student, others), self._told(step, others)

    def _random(self, own: Queries) -> Queries | None:
        images, count = own['query'].shape[:2]
        count = count if self.random is None else self.random
        if not count:
            return None
        chances = drawn(self.rng, images, count * numbers_of(own))
        return random_queries(own, uploaded(chances, own['query'].device).view(images, count, -1))

    @torch.no_grad()
    def _told(self, step: Step, queries: Queries) -> Found:
        """What the teacher finds with queries; in a fast form its products are of lower precision."""
        guide: Any = self.models[1]
        dtype = min((p.dtype for p in guide.decoder.parameters()), key=lambda kind: kind.itemsize)
        device = queries['query'].device.type
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            classes, boxes = decode(guide, step.answers(), queries)
        return classes.float(), boxes.float()

    def _compared(self, found: Found, told: Found) -> tuple[Tensor, Tensor]:
        """Weighted sums of the distances by layer [3, L], and of the weights [L]; last layers together."""
        layers = min(len(found[0]), len(told[0]))
        (s, b), (t, u) = ((side[0][-layers:], side[1][-layers:]) for side in (found, told))
        sigmoid = is_sigmoid(logit_head(self.models[0]))
        sure = certainty(t, sigmoid)
        apart = sure * query_distances((s, b), (t, u), sigmoid)
        return apart.sum((2, 3)), sure.sum((1, 2))


def _words(widths: dict[Any, int]) -> str:
    return ', '.join(f'{name} of {width} numbers' for name, width in widths.items())
