"""GO-LSD: the bins of a decoder's last layer teach the layers before it (D-FINE, ICLR 2025)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..core.levels import levels_of
from ..core.likeness import refuse_other_heads
from ..core.method import Method, Taps
from ..core.options import Positive
from ..core.step import Side, Step
from ..errors import InputError
from ..family.heads import is_sigmoid, logit_head
from ..family.localization import SIDES
from ..family.matched import matches
from ..family.taps import Tap, parse_taps
from ..losses.balance import balanced_mean
from ..losses.kl import softmax_kl
from ..losses.queries import certainty
from ..registry import MODELS

HEAD = Tap('bbox_head')


@MODELS.register_module()
class GOLSD(Method):
    """The bins of a decoder's last layer teach the layers before it; no teacher.

    Of every layer l but the last (L) the mean over queries that are matched with an object, and the mean over
    the n' others, weighted by the square roots of their counts::

        L = w sum_l (sqrt(n) mean_i u_li d_li + sqrt(n') mean_i v_i d_li) / (sqrt(n) + sqrt(n'))
        d_li = T^2 mean_sides KL(softmax(z_Li / T) || softmax(z_li / T)),     v_i = max_c p_Lic

    u is the IoU of the layer's box with the object. docs/methods/go_lsd.md says what is published, and
    which heads have such bins.

    Args:
        temperature: T.
        tap: where the bins pass, one tensor for each layer; by default what a module ``Integral`` is given.
        **options: see :class:`Method`.

    >>> GOLSD().temperature, GOLSD.weights
    (5.0, {'detection': 1.5})
    """

    needs_teacher = False
    weights = {'detection': 1.5}

    def __init__(
        self, temperature: Positive = 5.0, tap: Taps | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.temperature, self._tap = temperature, tap
        self.model: list[nn.Module] = []  # no submodule
        self.bins: list[Tap] = []

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Find where bins pass."""
        refuse_other_heads('GOLSD', student, 'query', 'the student')
        self.bins = integral_taps(student) if self._tap is None else parse_taps(self._tap)
        if not self.bins or not hasattr(logit_head(student), 'assigner'):
            raise InputError(
                f'GOLSD is for decoders whose layers tell boxes by bins (D-FINE), {type(student).__name__} has '
                'no module Integral that reads them, or no assigner; if it has bins: '
                "tap='the module that gives them'"
            )
        self.model = [student]
        self.student_taps = [*self.bins, HEAD]

    def reads_labels(self, student: nn.Module) -> str | None:
        return 'GOLSD weighs bins by the objects that queries are matched with'

    def setup(self, student: Side, teacher: Side | None) -> None:
        """There must be bins of two layers at least, of every query's four sides."""
        shapes = [tuple(shape) for _, shape in levels_of(student, self.bins)]
        layers, _, queries = student.shapes[HEAD][0][:3]
        widths = [torch.Size(shape).numel() / (queries * SIDES) for shape in shapes]
        if not 2 <= len(shapes) <= layers or {*widths} != {int(max(widths))} or max(widths) < 2:
            raise InputError(
                f'GOLSD: {shapes} at {[tap.at for tap in self.bins]} of the student; needed: bins of two '
                f'to {layers} decoder layers, of the {SIDES} sides of {queries} queries; choose with '
                'tap=dict(at=..., levels=[...])'
            )

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The divergence of all layers from the last."""
        tapped = [t.float() for tap in self.bins for t in step.student[tap]]
        # denoising queries come first
        layers, own = len(tapped), int(getattr(self.model[0], 'num_queries', 0))
        classes, boxes = (t.detach().float() for t in step.student[HEAD][:2])
        images, queries = classes.shape[1:3]
        bins = torch.stack([t.reshape(images, queries, SIDES, -1)[:, -own:] for t in tapped])
        classes, boxes = (side[-layers:, :, -own:] for side in (classes, boxes))
        head = logit_head(self.model[0])
        matched, overlaps = matches(head, classes, boxes, step.samples)
        sure = certainty(classes[-1], is_sigmoid(head))
        weights = torch.where(matched, overlaps[:-1], sure)
        apart = softmax_kl(bins[:-1], bins[-1].detach(), self.temperature).mean(-1)
        return {'loss': balanced_mean((weights * apart).flatten(1), matched.flatten())}


def integral_taps(model: nn.Module) -> list[Tap]:
    """What the modules are given that turn bins into distances, as GFL's ``Integral`` does."""
    found = [name for name, m in model.named_modules() if type(m).__name__ == 'Integral']
    return [Tap(name, item=0, source='input') for name in found]
