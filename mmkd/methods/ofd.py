"""OFD: a comprehensive overhaul of feature distillation (ICCV 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..core.levels import channels_of
from ..core.method import FeatureMethod, refuse_other_task
from ..core.step import Side, Step
from ..errors import InputError
from ..family.stages import stage_taps
from ..family.taps import Tap
from ..losses.margins import margins, partial_distance
from ..necks.adapters import resize
from ..registry import MODELS

Norm = nn.modules.batchnorm._BatchNorm


@MODELS.register_module()
class OFD(FeatureMethod):
    """Maps before their ReLU follow the teacher's where it is active, and stay below a margin elsewhere.

    ``L = w sum_l 2^(l - L) 1 / B sum ((R_l(F_s) - t) [R_l(F_s) > t or t > 0])^2`` with ``t = max(F_t, m)``;
    ``m`` is ``E[x | x < 0]`` of each channel under the normal distribution of the teacher's last norm,
    ``R_l`` a 1x1 convolution and a norm, l from 1 (shallow) to L. B images.

    For residual classifiers: a stage's last block ends in a ReLU, before which both sides are read. The weight
    is the published one for CIFAR-100, 1e-3; for ImageNet it is 1e-4.

    >>> OFD().weights['classification']
    0.001
    """

    weights = {'classification': 1e-3}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.connectors = nn.ModuleList()
        self.margins: list[Tensor] = []
        self.norms: list[Any] = []

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Read both sides before the ReLU of their stages' last blocks."""
        assert teacher is not None
        if self._tap is not None or self._teacher_tap is not None:
            raise InputError(
                'OFD: tap: it reads before the ReLU of each stage, with the norm of the teacher there; '
                'leave tap and teacher_tap out. At places of your own: fitnet, review_kd'
            )
        self.student_taps = [tap for tap, _ in ends_of(student, 'the student')]
        found = ends_of(teacher, 'the teacher')
        self.teacher_taps, self.norms = [tap for tap, _ in found], [norm for _, norm in found]

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Build connectors; work out the margins of the teacher, whose weights are final."""
        assert teacher is not None
        refuse_other_task(self, student, 'classification')
        self.paired_levels(student, teacher)
        channels = (
            channels_of(student, self.student_taps),
            channels_of(teacher, self.teacher_taps),
        )
        for ours, theirs in zip(*channels):
            conv = nn.Conv2d(ours, theirs, 1, bias=False)
            self.connectors.append(nn.Sequential(conv, nn.BatchNorm2d(theirs)))
        with torch.no_grad():
            self.margins = [margins(norm.bias.float(), norm.weight.float()) for norm in self.norms]

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The distances of all stages; each counts half of the deeper one."""
        pairs, levels = self.raw_pairs(step), []
        self.margins = [margin.to(t) for margin, (_, t) in zip(self.margins, pairs)]  # once
        triples = list(zip(self.connectors, self.margins, pairs))
        for depth, (connect, margin, (student, teacher)) in enumerate(triples):
            ours = resize(connect(student), teacher.shape[-2:])
            distance = partial_distance(ours, teacher, margin)
            levels.append(distance / 2 ** (len(triples) - 1 - depth))
        return {'loss': torch.stack(levels).sum()}


def ends_of(model: nn.Module, owner: str) -> list[tuple[Tap, Any]]:
    """Where each stage passes before its last ReLU, and the norm that comes before that."""
    found = []
    for stage in stage_taps(model):
        blocks = [*model.get_submodule(stage.at).named_children()]
        name, block = blocks[-1] if blocks else ('', None)
        norms = [
            module for place, module in (block.named_modules() if block is not None else ())
            if isinstance(module, Norm) and not place.startswith(('downsample', 'shortcut'))
        ]  # fmt: skip
        if not isinstance(getattr(block, 'relu', None), nn.ReLU) or not norms:
            raise InputError(
                'OFD is for residual networks whose blocks end in a batch norm, a sum and a ReLU; '
                f'{stage.at} of {owner} does not. For every backbone: review_kd, fitnet, pkd'
            )
        found.append((Tap(f'{stage.at}.{name}.relu', levels=(-1,), source='input'), norms[-1]))
    return found
