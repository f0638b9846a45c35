"""DPK: better teacher better student, dynamic prior knowledge (ICLR 2023)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypedDict

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from ...collectives import drawn, uploaded
from ...core.forms import PRECISIONS, Precision
from ...core.levels import channels_of, sizes_at
from ...core.likeness import refuse_unlike_heads
from ...core.method import FeatureMethod
from ...core.options import AtLeast, Count, Has, NonNegative, Positive, ReadBy
from ...core.step import Side, Step
from ...errors import InputError
from ...family.stages import stage_taps, task_of
from ...family.taps import Tap
from ...files.checkpoints import inherit
from ...losses.kl import softmax_kl
from ...necks.adapters import Adapter, resize
from ...necks.focal_global import FocalGlobalLevels, focal_weights
from ...necks.prior_injection import PriorInjection, patchify, read_size, sizes_of
from ...registry import MODELS
from .levels import names_of, strides_of
from .ratios import Reading, build_ratio

ADAMW = dict(type='AdamW', lr=1e-4, betas=(0.9, 0.95), weight_decay=1e-4, fused=True)
"""The published optimiser of the transform."""
LIGHT_RATE = 1e-3
"""The learning rate of a ``light`` transform: narrower and shallower than those of :data:`ADAMW`."""
WARM_UP_AND_COSINE = (
    dict(type='LinearLR', start_factor=1e-3, share=(0.0, 0.1)),
    dict(type='CosineAnnealingLR', eta_min=1e-5, share=(0.1, 1.0)),
)
PATCHES = {16: 4, 32: 2}
"""Patch by stride of a detector's levels; 1 for all others."""

PUBLISHED: Mapping[str, dict[str, float]] = {
    'classification': dict(logits=0.8, feature=0.2, task=0.8),
}
NO_TASK = dict(logits=0.0, feature=1.0, task=1.0)
LOGITS = Tap('head')

Maps = list[tuple[Tensor, Tensor]]


class Focal(TypedDict, total=False):
    """Options of FGD."""

    alpha: NonNegative
    beta: NonNegative
    gamma: NonNegative
    lam: NonNegative
    temperature: Positive


@MODELS.register_module()
class DPK(FeatureMethod):
    """Part of the teacher's feature is injected into the student's; the whole is then distilled.

    At each stage ``l`` a share ``pi_l`` of the student's tokens is replaced by the teacher's, a small
    training-only transformer ``D`` rebuilds the teacher's map from the hybrid, and ``pi_l`` follows
    the feature gap: ``pi_l = 1 - CKA(F_s, F_t)``. Then

    - classification: ``task_weight CE + logits KL(t || s) + feature sum_l mse(D(F_s, F_t), F_t)``;
    - detection: FGD between ``D(F_s, F_t)`` and ``F_t`` on the injected levels (strides of 16 and
      more), between ``F_s`` and ``F_t`` on the others;
    - anything else: the reconstruction alone.

    docs/methods/dpk.md lists what is the paper's and where we differ.

    Args:
        size: ``full``, ``light``, a published pair's name, or encoder and decoder of every stage.
        patch: height and width of a patch, one number or one for each injected level.
        ratio: ``cka``, ``linear``, ``exponential``, ``uniform``, ``cosine``, a number (fixed), or
            ``dict(type=..., ...)``.
        mask: which places are the teacher's: ``random``, or where its ``teacher_energy`` is highest.
        inject: indices of the levels with prior knowledge; all for classifiers.
        logits: weight of the logits' divergence (classification).
        feature: weight of the reconstruction (classification).
        level_weights: one factor for each level's reconstruction.
        temperature: of the logits; published: 1.
        task_weight: factor of the student's own losses.
        fgd: ``alpha``, ``beta``, ``gamma``, ``lam``, ``temperature`` of FGD.
        inherit: parts of the student that start from the teacher's weights: ``['neck']``.
        precision: of the transform: ``fp32``, ``bf16``, ``fp16``, or ``auto``: bf16 where the teacher runs in
            half precision, else fp32. Losses are fp32 always.
        seed: of masks and random ratios.
        optimizer: its own; without a ``type`` it changes the default, AdamW with a rate of 1e-3 for ``light``,
            1e-4 for other sizes: ``dict(lr=5e-4)``.
        param_scheduler: its own; by default warm-up and cosine.
        **options: see :class:`FeatureMethod`.

    >>> DPK(size='light', ratio=0.5).needs_teacher
    True
    """

    shares = {'classification': 10.0, 'detection': 1.0}

    def __init__(
        self,
        size: Annotated[Any, ReadBy(read_size, 'a size')] = 'light',
        patch: Count | Sequence[Count] | None = None,
        ratio: Annotated[Any, ReadBy(build_ratio, 'a strategy or a number in [0, 1]')] = 'cka',
        mask: Literal['random', 'teacher_energy'] = 'random',
        inject: Sequence[Annotated[int, AtLeast(0)]] | None = None,
        logits: NonNegative | None = None,
        feature: NonNegative | None = None,
        level_weights: Sequence[NonNegative] | None = None,
        temperature: Positive = 4.0,
        task_weight: NonNegative | None = None,
        fgd: Focal | None = None,
        inherit: str | Sequence[str] = (),
        precision: Precision | Literal['auto'] = 'auto',
        seed: Annotated[int, AtLeast(0)] = 0,
        optimizer: Mapping[str, Any] | None = MappingProxyType({}),
        param_scheduler: Sequence[Annotated[Mapping[str, Any], Has('type')]] = WARM_UP_AND_COSINE,
        **options: Any,
    ) -> None:
        if optimizer is not None and 'type' not in optimizer:
            rate = LIGHT_RATE if size == 'light' else ADAMW['lr']
            optimizer = {**ADAMW, 'lr': rate, **optimizer}
        schedulers = [dict(scheduler) for scheduler in param_scheduler]
        super().__init__(optimizer=optimizer, param_scheduler=schedulers, **options)
        self.size, self._patch, self._inject = size, patch, inject
        self._level_weights = level_weights
        self.inject: list[int] = []
        self.level_weights: list[float] = []
        self.ratio, self.mask, self.precision = build_ratio(ratio), mask, precision
        self.factors: dict[str, Any] = dict(logits=logits, feature=feature, task=task_weight)
        self.inherit = [inherit] if isinstance(inherit, str) else list(inherit)
        self.temperature = temperature
        self.fgd: dict[str, Any] = {**(fgd or {})}
        self.rng = torch.Generator().manual_seed(seed)
        self.names: list[str] = []
        self.stages = nn.ModuleList()
        self.focal: FocalGlobalLevels | None = None
        self._single: set[int] = set()
        self._idle: list[nn.Parameter] = []

    @property
    def level_taps(self) -> tuple[list[Tap], list[Tap]]:
        """The taps of features; that of the logits has no level."""
        ours, theirs = ([t for t in taps if t != LOGITS] for taps in super().level_taps)
        return ours, theirs

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Choose taps and the published factors of the task."""
        assert teacher is not None
        self._refuse_idle(task_of(student))
        super().plan(student, teacher)
        published = PUBLISHED.get(task_of(student), NO_TASK)
        if task_of(student) != task_of(teacher):  # it has no such logits
            published = {**published, 'logits': 0.0}
        for name, value in published.items():
            self.factors[name] = value if self.factors[name] is None else self.factors[name]
        self.task_weight = self.factors['task'] or 0.0
        if self.factors['logits']:
            refuse_unlike_heads(student, teacher)
            self.student_taps = [*self.student_taps, LOGITS]
            self.teacher_taps = [*self.teacher_taps, LOGITS]

    def default_taps(self, student: nn.Module) -> list[Tap]:
        """Of detectors the neck, else the last two stages."""
        if task_of(student) == 'detection' and getattr(student, 'neck', None) is not None:
            return [Tap('neck')]
        return stage_taps(student)[-2:]

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Build the transforms of the levels that are injected, and the loss of the others."""
        assert teacher is not None
        self.paired_levels(student, teacher)
        taps, target_taps = self.level_taps
        ours, theirs = channels_of(student, taps), channels_of(teacher, target_taps)
        strides = strides_of(teacher, target_taps)
        self.inject = self._injected(strides, student)
        self.names = names_of(strides, teacher, target_taps, student.task == 'detection')
        self._build_stages(ours, theirs, strides, student.task == 'detection')
        self._refuse_single(teacher, target_taps)
        if student.task == 'detection':
            options = dict(self.fgd)
            temperature = options.pop('temperature', 0.5)
            weights = focal_weights(student.model, options)
            self.focal = FocalGlobalLevels(theirs, weights, temperature)
            for level, (own, target) in enumerate(zip(ours, theirs)):
                plain = level not in self.inject
                self.adapters.append(Adapter(own, target) if plain else nn.Identity())

    def after_init(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Let parts of the student start from the teacher's weights."""
        assert teacher is not None
        for part in self.inherit:
            report = inherit(student, teacher, part)
            level = logging.INFO if report.clean else logging.WARNING
            print_log(f"DPK: {part} starts from the teacher's weights: {report}", 'current', level)

    def _injected(self, strides: list[int], student: Side) -> list[int]:
        levels = range(len(strides))
        if self._inject is not None:
            rising = sorted(set(self._inject)) == list(self._inject)
            if not (rising and self._inject and set(self._inject) <= set(levels)):
                raise InputError(
                    f'DPK: inject={list(self._inject)}; needed: indices of levels, 0 to '
                    f'{len(strides) - 1}, one at least, rising'
                )
            return list(self._inject)
        if student.task != 'detection':
            return list(levels)
        last = 32 if hasattr(student.model, 'roi_head') else max(strides)
        return [i for i in levels if 16 <= strides[i] <= last] or list(levels)[-2:]

    def _build_stages(
        self, ours: list[int], theirs: list[int], strides: list[int], detection: bool
    ) -> None:
        count = len(self.inject)
        if self._patch is None:
            patches = [PATCHES.get(strides[i], 1) if detection else 1 for i in self.inject]
        else:
            patches = [self._patch] * count if isinstance(self._patch, int) else list(self._patch)
        self.level_weights = list(self._level_weights or [1.0] * count)
        self._refuse_other_count('patch', patches)
        self._refuse_other_count('level_weights', self.level_weights)
        sizes = sizes_of(self.size, [theirs[i] for i in self.inject], patches)
        for level, patch, size in zip(self.inject, patches, sizes):
            self.stages.append(PriorInjection(ours[level], theirs[level], patch, **size))

    def _refuse_single(self, teacher: Side, taps: list[Tap]) -> None:
        """Stop if no injected level could ever have two tokens, however large the images are."""
        stages: dict[int, Any] = dict(zip(self.inject, self.stages))
        sizes = dict(enumerate(sizes_at(teacher, taps)))
        if any(stage.stitches(sizes[i]) for i, stage in stages.items()):
            return
        larger = sizes_at(teacher.larger(), taps)
        if any(stage.stitches(larger[i]) for i, stage in stages.items()):
            return
        shown = [f'{self.names[i]} {h}x{w}' for i in stages for h, w in [larger[i]]]
        raise InputError(
            f'DPK: every injected level is a single token ({", ".join(shown)}, patch='
            f'{[stage.patch for stage in self.stages]}), however large the images are; a smaller patch, or '
            'a tap before the pooling (tools/list_taps.py CONFIG)'
        )

    def _refuse_idle(self, task: str) -> None:
        """Stop if an option is given that the task's loss does not read."""
        idle = dict(feature=self.factors['feature'], level_weights=self._level_weights)
        if task != 'detection':
            idle = dict(fgd=self.fgd or None)
        for option, value in idle.items():
            if value is not None:
                raise InputError(
                    f'DPK: {option}={value} has no effect in {task}, whose loss is '
                    + (
                        'FGD (fgd=dict(alpha=...), weight=...)'
                        if task == 'detection'
                        else 'the reconstruction (feature=..., level_weights=[...])'
                    )
                    + '; leave it out'
                )

    def _refuse_other_count(self, option: str, values: Sequence[Any]) -> None:
        if len(values) != len(self.inject):
            raise InputError(
                f'DPK: {option}={list(values)} has {len(values)} entries; needed: {len(self.inject)}'
                f', one for each injected level ({", ".join(self.names[i] for i in self.inject)})'
            )

    def reads_labels(self, student: nn.Module) -> str | None:
        return 'its loss of detectors (FGD) looks at the objects' if self.focal else None

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Measure the gap, rebuild the student's maps, and compare them with the teacher's."""
        maps = self.raw_pairs(step)
        injected = [maps[level] for level in self.inject]
        self._idle = []
        readings = self.ratio(injected, step.progress, self.rng)
        precision = self._precision(step)
        with torch.autocast(step.inputs.device.type, precision, precision != torch.float32):
            rebuilt = [
                self._rebuild(level, stage, pair, reading)
                for level, stage, pair, reading in zip(self.inject, self.stages, injected, readings)
            ]
        terms = self._losses(step, maps, rebuilt)
        if self.factors['logits']:
            divergence = softmax_kl(*self._logits(step), self.temperature).mean()
            terms['loss_logits'] = divergence * self.factors['logits']
        return terms | self._statistics(readings)

    def pairs(self, step: Step) -> list[tuple[Tensor, Tensor]]:
        """The maps of both sides, the student's in the teacher's channels without any prior knowledge."""
        adapters: dict[int, Any] = dict(enumerate(self.adapters))
        adapters |= {i: stage.alone for i, stage in zip(self.inject, self.stages)}
        maps = {i: pair for i, pair in enumerate(self.raw_pairs(step)) if i in adapters}
        return [(adapters[i](s, t.shape[-2:]), t) for i, (s, t) in maps.items()]

    def idle_parameters(self, progress: float) -> Iterable[nn.Parameter]:
        """Those of transforms that had nothing to stitch in this batch."""
        return self._idle

    def training_state(self) -> dict[str, Any]:
        """The generator of the masks, and what the ratio remembers."""
        return {'rng': self.rng.get_state(), 'ratio': self.ratio.state()}

    def resume_training(self, state: Mapping[str, Any]) -> None:
        """Go on with both."""
        self.rng.set_state(state['rng'])
        self.ratio.resume(state['ratio'])

    def _precision(self, step: Step) -> torch.dtype:
        """The transform's; fp16 is left to those who ask for it, because small gradients vanish in it."""
        if self.precision != 'auto':
            return PRECISIONS[self.precision]
        came = {t.dtype for tap in self.level_taps[1] for t in step.answers()[tap]}
        able = step.inputs.device.type != 'cuda' or torch.cuda.is_bf16_supported()
        half = not came.isdisjoint({torch.bfloat16, torch.float16})
        return torch.bfloat16 if half and able else torch.float32

    def _rebuild(
        self, level: int, stage: Any, pair: tuple[Tensor, Tensor], reading: Reading
    ) -> Tensor:
        student, teacher = pair
        scores = self._scores(stage, teacher)  # drawn always: ranks, whose sizes differ, draw alike
        if stage.stitches(teacher.shape[-2:]):
            return stage(student, teacher, reading.ratio, scores, self.ratio.floor).float()
        return self._plain(level, stage, student, teacher).float()

    def _plain(self, level: int, stage: Any, student: Tensor, teacher: Tensor) -> Tensor:
        """The student's map of a level that is a single token in this batch, in the teacher's channels."""
        if level not in self._single:
            self._single.add(level)
            height, width = teacher.shape[-2:]
            print_log(
                f'DPK: {self.names[level]}: a map of {height}x{width} is a single token '
                f'(patch={stage.patch}), into which nothing is injected; such a level of a batch is '
                'compared plainly',
                'current',
                logging.WARNING,
            )
        if student.shape[1] == teacher.shape[1]:
            self._idle += stage.parameters()
            return resize(student, teacher.shape[-2:])
        self._idle += [*stage.teacher_embed.parameters(), *stage.teacher_encoder.parameters()]
        return stage.alone(student, teacher.shape[-2:])

    def _scores(self, stage: Any, teacher: Tensor) -> Tensor:
        """The places of the lowest scores are the teacher's; on k ranks those of one process."""
        if self.mask == 'teacher_energy':
            return -patchify(teacher, stage.patch).square().mean(2)
        tokens = math.prod(stage.grid(teacher.shape[-2:]))
        return uploaded(drawn(self.rng, len(teacher), tokens), teacher.device)

    def _losses(self, step: Step, maps: Maps, rebuilt: list[Tensor]) -> dict[str, Tensor]:
        if self.focal is None:
            weights = [factor * self.factors['feature'] for factor in self.level_weights]
            return {
                f'loss_{self.names[level]}': weight * F.mse_loss(map_, maps[level][1])
                for level, weight, map_ in zip(self.inject, weights, rebuilt)
            }
        hybrids = dict(zip(self.inject, rebuilt))
        pairs = [
            (hybrids[i] if i in hybrids else adapter(student, teacher.shape[-2:]), teacher)
            for i, (adapter, (student, teacher)) in enumerate(zip(self.adapters, maps))
        ]
        return self.focal(pairs, step.samples, step.inputs.shape[-2:])

    def _logits(self, step: Step) -> tuple[Tensor, Tensor]:
        return step.student[LOGITS][0].float(), step.answers()[LOGITS][0].float()

    def _statistics(self, readings: list[Reading]) -> dict[str, Tensor]:
        values = {
            f'{what}.{self.names[level]}': getattr(reading, what)
            for level, reading in zip(self.inject, readings)
            for what in ('ratio', 'cka', 'samples')
        }
        return {name: torch.tensor(float(v)) for name, v in values.items() if v is not None}
