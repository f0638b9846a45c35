"""How the class logits of two models compare: one divergence for every kind of head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..collectives import mean_count
from ..losses.kl import binary_kl, softmax_kl, standardized
from ..losses.layout import laid_out_like
from ..losses.matching import match_queries
from .heads import head_kind, is_sigmoid, logit_head
from .stages import task_of

Levels = list[Tensor]
"""What passed at a model's logit taps, level by level."""
STANDARD_TEMPERATURE = 2.0
"""T where logits are standardised, by default."""
CERTAIN = 1e-6
"""No chance is nearer to 0 or 1 where its logit is asked for."""


@dataclass(frozen=True)
class LogitDivergence:
    """``T^2 KL`` of a student's class probabilities from a teacher's, as the student's head has them.

    Vectors, pixels and the boxes of a RoI head: the mean over rows. Dense heads: the sum over anchors or
    points, divided by the number of objects that the teacher expects, ``sum_i max_c p_t``, because most
    anchors hold nothing. Queries: the last decoder layer's, paired one to one by class probabilities and
    boxes, divided likewise. The mean is one over all ranks.

    Attributes:
        kind: see :func:`~.heads.head_kind`.
        sigmoid: whether classes are independent; the divergence is then the binary one, summed over classes.
        temperature: T.
        classes: how many a dense head has at each anchor.
        queries: how many of the last queries count, of the student and of the teacher; those before them
            are for denoising.
        standardize: whether exclusive classes' logits are standardised row by row.
        activated: whether a dense head gives chances (TOOD, CenterNet), which are turned into logits.
    """

    kind: str
    sigmoid: bool
    temperature: float
    classes: int = 0
    queries: tuple[int, int] = (0, 0)
    activated: bool = False
    standardize: bool = False

    @classmethod
    def of(
        cls,
        student: nn.Module,
        teacher: nn.Module,
        temperature: float | None,
        standardize: bool = False,
    ) -> LogitDivergence:
        """Look at the student's head; by default T is 4 for classifiers and 1 otherwise."""
        head = logit_head(student)
        if temperature is None:
            temperature = 4.0 if task_of(student) == 'classification' else 1.0
        return cls(
            head_kind(student),
            is_sigmoid(head),
            temperature,
            int(getattr(head, 'cls_out_channels', 0)),
            (_queries(student), _queries(teacher)),
            bool(getattr(getattr(head, 'loss_cls', None), 'activated', False))
            or hasattr(head, 'heatmap_head'),
            standardize,
        )

    def __call__(self, ours: Levels, theirs: Levels) -> Tensor:
        """The divergence of the student's logits from the teacher's."""
        if self.kind == 'dense' and self.sigmoid and not self.activated and ours[0].dim() == 4:
            return self._of_maps(ours, theirs)
        student, teacher = self._rows(
            [level.float() for level in ours], [level.float() for level in theirs]
        )
        if self.sigmoid:
            divergence = binary_kl(student, teacher, self.temperature).sum(-1)
        else:
            sides = (student, teacher)
            if self.standardize:
                sides = standardized(student), standardized(teacher)
            divergence = softmax_kl(*sides, temperature=self.temperature)
        if self.kind in ('dense', 'query'):
            counted = self._foreground(teacher).sum()
        else:
            counted = divergence.new_tensor(float(len(divergence)))
        return divergence.sum() / mean_count(counted)

    def _of_maps(self, ours: Levels, theirs: Levels) -> Tensor:
        """That of a dense head, without bringing all maps into rows."""
        maps = [(s, laid_out_like(s, t)) for s, t in zip((s.float() for s in ours), theirs)]
        divergences = [binary_kl(s, t, self.temperature).sum() for s, t in maps]
        found = torch.stack(divergences).sum()
        scores = [t.unflatten(1, (-1, self.classes or t.shape[1])).amax(2) for _, t in maps]
        return found / mean_count(torch.stack([best.sigmoid().sum() for best in scores]).sum())

    def confidence(self, theirs: Levels) -> Tensor:
        """How sure a dense head is that each anchor or point holds an object, ``max_c p``: [N]."""
        return self._foreground(self.rows(theirs))

    def rows(self, levels: Levels) -> Tensor:
        """The class logits of a dense head, anchor by anchor: [N, C]."""
        return self._as_rows([level.float() for level in levels])

    def _rows(self, ours: Levels, theirs: Levels) -> tuple[Tensor, Tensor]:
        """Logits of both for the same things: [N, C] each."""
        if self.kind == 'query':
            return self._matched(ours, theirs)
        return self._as_rows(ours), self._as_rows(theirs)

    def _as_rows(self, logits: Levels) -> Tensor:
        classes = self.classes if self.kind == 'dense' else None
        rows = torch.cat([as_rows(level, classes) for level in logits])
        return rows.logit(CERTAIN) if self.activated else rows

    def _matched(self, ours: Levels, theirs: Levels) -> tuple[Tensor, Tensor]:
        """Paired rows of the last decoder layer."""
        (scores, boxes), (their_scores, their_boxes) = (
            (values[0][-1][:, -count:], values[1][-1][:, -count:])
            for values, count in zip((ours, theirs), self.queries)
        )
        rows = []
        for s, b, t, tb in zip(scores, boxes, their_scores, their_boxes):
            mine, yours = match_queries((self._chance(s), b), (self._chance(t), tb))
            rows.append((s[mine], t[yours]))
        return torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows])

    def _chance(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.sigmoid else logits.softmax(-1)

    def _foreground(self, teacher: Tensor) -> Tensor:
        """How sure the teacher is that each row holds an object; softmax heads keep background last."""
        if self.sigmoid:
            return teacher.amax(-1).sigmoid()
        return teacher.softmax(-1)[:, :-1].amax(-1)


def _queries(model: nn.Module) -> int:
    return int(getattr(model, 'num_queries', 0))


def as_rows(values: Tensor, width: int | None) -> Tensor:
    """A head's answers as rows [N, width]; maps [B, A width, H, W] put the anchors of a cell side by side.

    >>> as_rows(torch.arange(4.0).view(1, 2, 1, 2), 1).flatten()
    tensor([0., 2., 1., 3.])
    """
    if values.dim() == 4:
        values = values.permute(0, 2, 3, 1)
    return values.reshape(-1, width or values.shape[-1])
