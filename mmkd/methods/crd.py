"""CRD: contrastive representation distillation (ICLR 2020)."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..collectives import gather_rows, uploaded
from ..core.levels import levels_of
from ..core.likeness import refuse_without_embedding
from ..core.method import Taps, refuse_other_task
from ..core.numbered import NumberedMethod
from ..core.options import AtLeast, Count, Positive, Share
from ..core.step import Side, Step
from ..family.embeddings import embedding_of, embedding_taps
from ..losses.contrast import noise_contrast
from ..necks.memory import MemoryBank
from ..registry import MODELS


@MODELS.register_module()
class CRD(NumberedMethod):
    """An image's embedding is told from those of other images by the teacher's, and the other way round.

    ``L = w (C(s_i, M_t) + C(t_i, M_s))``, the mean over images i, with s and t of length 1, and memories M of
    both sides of all training images::

        C(x, M) = -log h(x, M_i) - sum_k log(1 - h(x, M_k)),     h(x, m) = P / (P + K / N),
        P = exp(x m / T) / Z

    K of N images are drawn as negatives of a batch; Z is N times the mean of the first batch.
    docs/methods/crd.md says what is published and where we differ.

    Args:
        width: of the embeddings that are compared; linear layers give it on both sides.
        negatives: K.
        temperature: T.
        momentum: how much of a memory stays when its image comes.
        tap: where the student's embedding is; by default ``neck``, else the backbone.
        teacher_tap: the same of the teacher; by default chosen likewise.
        seed: of the memories, and of the draws.
        **options: see :class:`NumberedMethod`, whose ``images`` is N.

    >>> CRD(negatives=4096).temperature
    0.07
    """

    weights = {'classification': 0.8}
    scaled = True

    def __init__(
        self,
        width: Count = 128,
        negatives: Count = 16384,
        temperature: Positive = 0.07,
        momentum: Annotated[float, Share()] = 0.5,
        tap: Taps | None = None,
        teacher_tap: Taps | None = None,
        seed: Annotated[int, AtLeast(0)] = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.width, self.temperature = width, temperature
        self._tap, self._teacher_tap = tap, teacher_tap
        self.projectors = nn.ModuleList()
        self.bank = MemoryBank(width, negatives, momentum, seed)

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Find both embeddings."""
        assert teacher is not None
        self.student_taps = embedding_taps(student, self._tap)
        self.teacher_taps = embedding_taps(teacher, self._teacher_tap)

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Build a linear layer for each side's embedding."""
        assert teacher is not None
        refuse_other_task(self, student, 'classification')
        for side, taps in ((student, self.student_taps), (teacher, self.teacher_taps)):
            refuse_without_embedding('CRD', side, taps)
            _, shape = levels_of(side, taps)[-1]
            self.projectors.append(nn.Linear(shape[1], self.width))

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Both contrasts, over the images of all ranks, which then remember the same."""
        sides = (step.student, self.student_taps), (step.answers(), self.teacher_taps)
        found = [
            F.normalize(project(embedding_of(features, taps)))
            for project, (features, taps) in zip(self.projectors, sides)
        ]
        numbers = uploaded(self.numbers(step.samples), found[0].device)
        # in double precision, which is exact for both
        *whole, images = gather_rows([*found, numbers[:, None].double()])
        both, images = torch.stack(whole).to(found[0]), images[:, 0].long()
        assert self.images is not None
        self.refuse_other_count(self.bank.count or self.images)
        own, others = self.bank.recall(images, self.images)
        x = both.flip(0)  # the student's against what the teacher's were, and the other way round
        scores = torch.cat([(x * own).sum(-1, keepdim=True), x @ others.transpose(1, 2)], -1)
        chances = self.bank.likely(scores / self.temperature).flatten(0, 1)
        self.bank.remember(images, both)
        noise = others.shape[1] / self.images
        return {'loss': 2 * noise_contrast(chances[:, 0], chances[:, 1:], noise)}

    def training_state(self) -> Any:
        """All memories, and the state of the generator."""
        return self.bank.state()

    def resume_training(self, state: Any) -> None:
        """Go on with them."""
        self.bank.resume(state)
