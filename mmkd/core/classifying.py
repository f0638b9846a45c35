"""Methods of classifiers: one vector of class scores for each image on both sides."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..family.heads import logit_taps
from ..family.logits import STANDARD_TEMPERATURE
from ..losses.kl import standardized
from .likeness import refuse_other_classes, refuse_other_heads, refuse_other_shapes, refuse_sigmoid
from .method import Method
from .options import Positive
from .step import Side, Step


class ClassifierMethod(Method):
    """A method that compares the class logits of two softmax classifiers.

    Args:
        temperature: T; by default the method's own, 2 with ``standardize``.
        standardize: compare logits of mean 0 and deviation 1 (Sun et al., CVPR 2024).
        **options: see :class:`Method`.
    """

    usual_temperature = 4.0
    scaled = True

    def __init__(
        self, temperature: Positive | None = None, standardize: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        usual = STANDARD_TEMPERATURE if standardize else self.usual_temperature
        self.temperature = usual if temperature is None else temperature
        self.standardize = standardize

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Tap both heads, which must be softmax classifiers."""
        assert teacher is not None
        name = type(self).__name__
        for model, owner in ((student, 'the student'), (teacher, 'the teacher')):
            refuse_other_heads(name, model, 'vector', owner)
        refuse_sigmoid(name, student)
        self.student_taps, self.teacher_taps = logit_taps(student), logit_taps(teacher)

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Look at both heads: the same classes."""
        assert teacher is not None
        name = type(self).__name__
        refuse_other_classes(name, student, teacher)
        refuse_other_shapes(name, student, teacher, (self.student_taps, self.teacher_taps))

    def logits(self, step: Step) -> tuple[Tensor, Tensor]:
        """The student's and the teacher's logits [B, C], standardised if that is asked for.

        Of a head that gives several vectors (DeiT's distillation token) all are rows.
        """
        sides = (step.student, self.student_taps), (step.answers(), self.teacher_taps)
        s, t = (torch.cat([v.float() for tap in taps for v in f[tap]]) for f, taps in sides)
        return (standardized(s), standardized(t)) if self.standardize else (s, t)
