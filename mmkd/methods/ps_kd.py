"""PS-KD: self-knowledge distillation with progressive refinement of targets (ICCV 2021)."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..collectives import gather_rows, uploaded, world_size
from ..core.likeness import refuse_other_heads, refuse_sigmoid
from ..core.numbered import NumberedMethod
from ..core.options import Share
from ..core.schedules import progress
from ..core.step import Step
from ..family.heads import logit_taps
from ..registry import MODELS


@MODELS.register_module()
class PSKD(NumberedMethod):
    """Labels are softened by what the student said of the same image an epoch ago; no teacher.

    ``L = (1 - a) L_labels - a sum_c p'_c log p_c`` with ``a = most t``, t the progress of training from 0 to 1;
    p' is what the student said of the image when it last came, the label before that. ``L_labels`` are the
    student's own losses, which are scaled.

    Args:
        most: a at the end of training.
        **options: see :class:`NumberedMethod`.

    >>> PSKD().most
    0.8
    """

    needs_teacher = False

    def __init__(self, most: Annotated[float, Share()] = 0.8, **options: Any) -> None:
        super().__init__(**options)
        self.most = most
        self.past: Tensor | None = None

    @property
    def task_weight(self) -> float:  # type: ignore[override]
        """What is left of the student's own losses."""
        return 1 - self.most * progress()

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Tap the head, which must be a softmax classifier's."""
        refuse_other_heads('PSKD', student, 'vector', 'the student')
        refuse_sigmoid('PSKD', student)
        self.student_taps = logit_taps(student)

    def reads_labels(self, student: nn.Module) -> str | None:
        return 'PSKD softens the labels'

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The cross entropy with the past; then this is the past."""
        logits = step.student[self.student_taps[0]][0].float()
        numbers = uploaded(self.numbers(step.samples), logits.device)
        past = self._past(logits)
        labels = torch.cat([sample.gt_label for sample in step.samples]).to(logits.device)
        known = past[numbers]
        targets = torch.where(known.any(1, keepdim=True), known, F.one_hot(labels, logits.shape[1]))
        apart = F.cross_entropy(logits, targets.to(logits), reduction='sum')
        # in double precision, which is exact for both
        said, images = gather_rows([logits.detach().softmax(1), numbers[:, None].double()])
        past.index_copy_(0, images[:, 0].long(), said.to(past))
        return {'loss': self.most * step.progress * apart * world_size() / len(images)}

    def training_state(self) -> Any:
        """What was last said of each image."""
        return None if self.past is None else dict(past=self.past)

    def resume_training(self, state: Any) -> None:
        """Go on with it."""
        self.past = state['past']

    def _past(self, logits: Tensor) -> Tensor:
        if self.past is None:
            self.past = logits.new_zeros(self.images or 0, logits.shape[1])
        self.refuse_other_count(len(self.past))
        self.past = uploaded(self.past, logits.device)
        return self.past
