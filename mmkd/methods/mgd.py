"""MGD: masked generative distillation (ECCV 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ..collectives import drawn, uploaded
from ..core.levels import channels_of
from ..core.method import FeatureMethod
from ..core.options import AtLeast, Share
from ..core.schedules import build_schedule
from ..core.step import Side, Step
from ..family.stages import task_of
from ..necks.focal_global import detector_kind
from ..registry import MODELS

ONE_STAGE = dict(weight=2e-5, mask=0.65)
TWO_STAGE = dict(weight=5e-7, mask=0.45)


@MODELS.register_module()
class MGD(FeatureMethod):
    """The student's map is masked at random; from what is left a small network rebuilds the teacher's.

    ``L = w / B sum_l sum (F_t - G_l(M_l A_l(F_s)))^2``, ``G_l`` a 3x3 convolution, a ReLU and a 3x3 convolution
    of the teacher's channels; ``M_l`` is 0 at a position with chance ``mask`` and 1 else, alike in
    all channels; ``A_l`` a 1x1 convolution where channels differ. B images of the batch.

    Weights and masks are the published ones of one-stage (2e-5, 0.65) and two-stage detectors (5e-7,
    0.45); docs/methods/mgd.md says what is ours.

    Args:
        mask: the chance of a position to be masked.
        seed: of the masks.
        **options: see :class:`FeatureMethod`.

    >>> MGD(mask=0.5).mask
    0.5
    """

    def __init__(
        self,
        mask: Annotated[float, Share(open=True)] | None = None,
        seed: Annotated[int, AtLeast(0)] = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.mask = mask
        self.rng = torch.Generator().manual_seed(seed)
        self.generators = nn.ModuleList()
        self.published: Mapping[str, float] = ONE_STAGE

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Choose weight and mask by the kind of detector."""
        super().plan(student, teacher)
        if task_of(student) == 'detection' and detector_kind(student) == 'two-stage':
            self.published = TWO_STAGE
        if self.mask is None:
            self.mask = self.published['mask']

    def choose_weight(self, task: str) -> None:
        """The config's, else the published one for the kind of detector."""
        if self._weight is None:
            self._weight = build_schedule(self.published['weight'])
        super().choose_weight(task)

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Build a generator for each level, of the teacher's channels."""
        assert teacher is not None
        super().setup(student, teacher)
        for channels in channels_of(teacher, self.teacher_taps):
            first, last = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
            self.generators.append(nn.Sequential(first, nn.ReLU(), last))

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The squared differences of all levels, summed over an image, the mean over images."""
        levels = [
            (generate(self._masked(student)) - teacher).square().sum() / len(teacher)
            for generate, (student, teacher) in zip(self.generators, self.pairs(step))
        ]
        return {'loss': torch.stack(levels).sum()}

    def training_state(self) -> Any:
        """The state of the generator of masks."""
        return self.rng.get_state()

    def resume_training(self, state: Any) -> None:
        """Go on with it."""
        self.rng.set_state(state)

    def _masked(self, maps: Tensor) -> Tensor:
        assert self.mask is not None
        size = maps.shape[-2:]
        kept = uploaded(drawn(self.rng, len(maps), size.numel()), maps.device) >= self.mask
        return maps * kept.view(len(maps), 1, *size)
