"""VFM: features of a detector, segmentor or classifier from a foundation model's patch tokens."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.method import FeatureMethod
from ..core.step import Side, Step
from ..errors import InputError
from ..family.stages import backbone_of
from ..family.taps import Tap, parse_taps
from ..losses.tokens import cosine_distance
from ..necks.adapters import patch_map, resize
from ..registry import MODELS


@MODELS.register_module()
class VFM(FeatureMethod):
    """The student's deepest map points, at every position, where the teacher's patch token does.

    ``L = w mean_p (1 - cos(P(F_s)_p, F_t_p))`` with a 1x1 convolution P; the teacher's tokens, as a map, are
    resized to the student's map. ``form='mixed'`` takes ``0.9 (1 - cos) + 0.1 smooth L1`` and two layers for P.

    The weight is by default that at which the method's gradient is a tenth of the task's
    (``weight='auto'``). docs/methods/vfm.md says what that rests on.

    Args:
        form: ``cosine`` or ``mixed``.
        tap: where to read the student; by default its backbone, of whose outputs the last counts.
        teacher_tap: where the teacher's patch tokens or map are; by default its backbone, likewise.
        **options: see :class:`FeatureMethod`.

    >>> VFM(form='mixed').form
    'mixed'
    """

    shares = dict.fromkeys(('classification', 'detection', 'segmentation'), 0.1)

    def __init__(self, form: Literal['cosine', 'mixed'] = 'cosine', **options: Any) -> None:
        if options.get('weight') is None:
            options['weight'] = 'auto'
        super().__init__(**options)
        self.form = form
        self.project: nn.Module = nn.Identity()

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Both backbones' last outputs, unless the config says where."""
        assert teacher is not None
        sides = (self._tap, student), (self._teacher_tap, teacher)
        self.student_taps, self.teacher_taps = (
            [_last(backbone_of(model))] if given is None else parse_taps(given)
            for given, model in sides
        )

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Build the projector, from the student's channels to the teacher's."""
        assert teacher is not None
        pairs = self.paired_levels(student, teacher)
        if len(pairs) > 1:
            raise InputError(
                f'VFM: {student.owner} gives {len(pairs)} levels at {self.student_taps[0].at!r}; needed: one, '
                "the deepest: tap=dict(at='backbone', levels=[-1])"
            )
        ours, theirs = (
            patch_map(
                torch.empty(shape, device='meta'),
                (side.image, side.image),
                f'VFM: {what} of {side.owner}',
            )
            for side, (what, shape) in zip((student, teacher), pairs[0])
        )
        layers: list[nn.Module] = [nn.Conv2d(ours.shape[1], theirs.shape[1], 1)]
        if self.form == 'mixed':
            layers += [nn.GELU(), nn.Conv2d(theirs.shape[1], theirs.shape[1], 1)]
        self.project = nn.Sequential(*layers)

    def pairs(self, step: Step) -> list[tuple[Tensor, Tensor]]:
        """The student's projected map and the teacher's tokens at its size."""
        sides = step.student[self.student_taps[0]], step.answers()[self.teacher_taps[0]]
        student, teacher = (patch_map(side[-1].float(), step.inputs.shape[-2:]) for side in sides)
        return [(self.project(student), resize(teacher, student.shape[-2:]))]

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The cosine's, alone or with the smooth L1."""
        cosine = cosine_distance(student, teacher)
        return (
            cosine
            if self.form == 'cosine'
            else 0.9 * cosine + 0.1 * F.smooth_l1_loss(student, teacher)
        )


def _last(backbone: str) -> Tap:
    return Tap(backbone, levels=(-1,))
