"""FRSKD: refine myself by teaching myself, feature refinement via self-distillation (CVPR 2021)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.levels import channels_of, levels_of, refuse_unordered
from ..core.likeness import refuse_mixed
from ..core.method import Method, Taps
from ..core.options import Count, Positive, Share
from ..core.schedules import Schedule, Weight, build_schedule
from ..core.step import Side, Step
from ..errors import InputError
from ..family.heads import is_sigmoid, logit_head, logit_taps
from ..family.localization import BoxDivergence
from ..family.logits import LogitDivergence
from ..family.passing import several_stages
from ..family.roi import Rois, box_tap, roi_part
from ..family.stages import task_of
from ..family.taps import Features, Tap, parse_taps
from ..losses.attention import attention_distance, attention_turn
from ..necks.adapters import as_map
from ..necks.bifpn import BiFPN, pointwise
from ..necks.self_teacher import ClassifierTeacher, HeadsTeacher, heads_of, lent_heads, rotated
from ..registry import MODELS

ALPHA = {'classification': 2.0, 'detection': 1.0, 'segmentation': 1.0}
BETA = {'classification': 100.0, 'detection': 0.02, 'segmentation': 0.02}
GAMMA = 1.0
REPEAT = {'classification': 1, 'detection': 1, 'segmentation': 2}
BETA_FITNET = 1.0
SINGLE = ', which the pyramid refines by one another; with a teacher, pkd and cwd do with one'
"""What a network is told whose heads read a single map."""
RAMP = dict(type='Ramp', begin=2 / 3, until=1.0, shape='sigmoid')
"""From the last third of training on, ``exp(-5 (1 - t)^2)``."""


@MODELS.register_module()
class FRSKD(Method):
    """The student learns from its own features, refined by a pyramid that is gone at inference.

    A self-teacher (:class:`mmkd.necks.BiFPN` and a head of its own) sees the student's features
    F_i, is trained on the labels, and through its input trains the student's backbone too. Its
    refined features T_i and logits z_t, without gradient, are the student's targets::

        L = task(z_s) + task(z_t) + alpha KL(z_t || z_s) + beta sum_i |a(F_i) - a(T_i)|^2

    ``a`` is spatial attention of a map behind a ReLU. Divergence and temperature are those of KD
    for the head.

    - classification: all stages; the feature term is the mean over positions; cross-entropy of the
      self-teacher with the labels that the student's head gets, hard or mixed. alpha 2, beta 100,
      T 4, no ramp. ``rotations`` adds a reduced form of self-supervised label augmentation: the
      self-teacher sees the batch in four rotations, tells classes and rotations apart, and teaches
      their mean.
    - segmentation, detection (ours): the maps that the heads read, and a second set of these heads
      with their own losses. The feature term is the sum over positions, so that levels count alike;
      dense heads learn boxes too, with weight gamma. alpha 1, beta 0.02, gamma 1, T 1, zero for two
      thirds of training, then rising. RoI heads are compared on the boxes that the student sampled.

    docs/methods/frskd.md lists what is published and where we differ.

    Args:
        alpha: weight of the logits' divergence: a number (ramped where the task is), or a schedule.
        beta: weight of the feature term, likewise.
        gamma: weight of the boxes' divergence, likewise; for dense heads of detectors.
        temperature: T, of the logits.
        feature: ``attention``, ``fitnet`` (adapters and mean squares) or None (no feature term).
        width: of the pyramid's scaled form (classification; 2).
        channels: of the pyramid's fixed form (classification).
        depth: separable convolutions in each of the pyramid's blocks.
        repeat: layers of the pyramid; by default 1, for segmentation 2.
        rotations: classification: the self-teacher learns the labels of four rotations.
        detach_input: keep the self-teacher's own loss from training the student.
        head: detection and segmentation: ``own`` weights of the self-teacher's heads, or ``shared``,
            the student's heads themselves.
        deep_supervision: run the self-teacher from the first iteration on, also while none of its
            terms has weight; by default for classification.
        warm_up: otherwise: how much of training it runs, and learns, before one of them has weight.
        tap: the stages of a classifier, shallow to deep, if not all.
        **options: see :class:`Method`.

    >>> FRSKD(alpha=1.0, feature=None).needs_teacher
    False
    """

    needs_teacher = False
    trains_heads = True
    ramped = True

    def __init__(
        self,
        alpha: Weight | None = None,
        beta: Weight | None = None,
        gamma: Weight | None = None,
        temperature: Positive | None = None,
        feature: Literal['attention', 'fitnet'] | None = 'attention',
        width: Positive | None = None,
        channels: Count | None = None,
        depth: Count = 2,
        repeat: Count | None = None,
        rotations: bool = False,
        detach_input: bool = False,
        head: Literal['own', 'shared'] = 'own',
        deep_supervision: bool | None = None,
        warm_up: Annotated[float, Share()] = 1 / 6,
        tap: Taps | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if feature is None and beta is not None:
            raise InputError(f'FRSKD: beta={beta!r} with feature=None has no effect; leave one out')
        self._given = dict(alpha=alpha, beta=beta, gamma=gamma)
        self.feature, self.detach_input, self._tap = feature, detach_input, tap
        self._sizes = dict(width=width, channels=channels)
        self.depth, self.repeat, self.rotations = depth, repeat, rotations
        self.head, self.deep_supervision, self.warm_up = head, deep_supervision, warm_up
        self.temperature = temperature
        self.divergence: LogitDivergence | None = None
        self.localization: BoxDivergence | None = None
        self.logits: list[Tap] = []
        self.maps: list[Tap] = []
        self.boxes: list[Tap] = []
        self.adapters = nn.ModuleList()
        self.self_teacher: nn.Module | None = None
        self.alpha = self.beta = self.gamma = build_schedule(0.0)
        self._compare = attention_distance

    # -- set-up ---------------------------------------------------------------------------------

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Take the stages or the pyramid, the class logits and boxes, and the boxes that RoI logits are of."""
        task = task_of(student)
        self._refuse_task(student, task)
        self.divergence = LogitDivergence.of(student, student, self.temperature)
        self.localization = BoxDivergence.of(student)
        self._refuse_idle_options(student, task)
        self.logits = logit_taps(student)
        self.maps = self._map_taps(student, task)
        if self.divergence.kind == 'roi':
            self.boxes = [box_tap(tap) for tap in self.logits]
        self.student_taps = [*self.maps, *self._answers, *self.boxes]

    def reads_labels(self, student: nn.Module) -> str | None:
        return 'FRSKD trains its own heads with the labels'

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Build the self-teacher: its pyramid, and heads as the student's."""
        cure = {} if student.task == 'classification' else {'cure': SINGLE}
        refuse_unordered('FRSKD', student, self.maps, **cure)
        refuse_mixed('FRSKD', student, self.logits)
        channels = channels_of(student, self.maps)
        pyramid = BiFPN(channels, **self._form(student.task, channels))
        self.self_teacher = self._self_teacher(student, pyramid)
        if self.feature == 'fitnet':
            pairs = zip(channels, pyramid.out_channels)
            self.adapters.extend(pointwise(own, refined) for own, refined in pairs)
        defaults = dict(
            alpha=ALPHA[student.task],
            beta=self._default_beta(student.task),
            gamma=0.0 if self.localization is None else GAMMA,
        )
        for name, default in defaults.items():
            setattr(self, name, _schedule(self._given[name], default, student.task))
        if student.task != 'classification':
            self._compare = attention_turn
        if self.deep_supervision is None:
            self.deep_supervision = student.task == 'classification'

    def reaches_student(self, term: str) -> bool:
        """Of the self-teacher's losses the classifier's, unless its inputs are detached."""
        # a detector's terms may be zero where a batch holds no object
        if term == 'loss_ce':
            return not self.detach_input
        return term in ('loss_logits', 'loss_localization', f'loss_{self.feature}')

    def idle_parameters(self, progress: float) -> Iterable[nn.Parameter]:
        """All of them until the self-teacher runs; the adapters, as long as the feature term has no weight."""
        if not self._runs(progress):
            return self.parameters()
        return () if self.beta(progress) > 0 else self.adapters.parameters()

    @property
    def _answers(self) -> list[Tap]:
        """Where the heads' answers pass that are compared."""
        return self.logits + ([] if self.localization is None else [self.localization.tap])

    def _self_teacher(self, student: Side, pyramid: BiFPN) -> nn.Module:
        if student.task == 'classification':
            classes, vectors = _classes(student, self.logits)
            return ClassifierTeacher(pyramid, classes, self.logits[0], self.rotations, vectors)
        lent = self.head == 'shared'
        heads = lent_heads(student.model) if lent else heads_of(student.config)
        return HeadsTeacher(pyramid, heads, self._answers, lent)

    def _runs(self, progress: float) -> bool:
        """Whether the self-teacher is run: one of its terms has weight, or will have after its warm-up."""
        times = (progress, min(1.0, progress + self.warm_up))
        weights = (
            schedule(time) for schedule in (self.alpha, self.beta, self.gamma) for time in times
        )
        return bool(self.deep_supervision) or any(weight > 0 for weight in weights)

    def _map_taps(self, student: nn.Module, task: str) -> list[Tap]:
        if task == 'classification':
            return several_stages(student) if self._tap is None else parse_taps(self._tap)
        given = dict(tap=self._tap, **self._sizes)
        for name, value in given.items():
            if value is not None:
                raise InputError(
                    f'FRSKD: {name}={value!r}; for {task} the pyramid is that of the maps that the '
                    'heads read, with their channels; leave the option out'
                )
        return [Tap('backbone' if getattr(student, 'neck', None) is None else 'neck')]

    def _form(self, task: str, channels: list[int]) -> dict[str, Any]:
        form: dict[str, Any] = dict(depth=self.depth)
        form['repeat'] = REPEAT[task] if self.repeat is None else self.repeat
        if task == 'classification':
            given = {name: value for name, value in self._sizes.items() if value is not None}
            return form | given
        # heads of the same config read the refined maps, so these keep the channels
        alike = len(set(channels)) == 1
        return form | (dict(channels=channels[0]) if alike else dict(width=1))

    def _default_beta(self, task: str) -> float:
        if self.feature is None:
            return 0.0
        return BETA_FITNET if self.feature == 'fitnet' else BETA[task]

    # -- one step -------------------------------------------------------------------------------

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The self-teacher's own losses, and what the student is to learn from it."""
        assert self.self_teacher is not None
        if not self._runs(step.progress):
            return {}
        maps = self._maps(step)
        inputs = [m.detach() for m in maps] if self.detach_input else maps
        rois = self._rois(step) if self.alpha(step.progress) > 0 else None
        refined, terms, answers = self.self_teacher(inputs, step.samples, rois)
        taught = {
            f'loss_{self.feature}': (self.beta, lambda: self._distance(maps, refined)),
            'loss_logits': (self.alpha, lambda: self._divergence(step.student, answers)),
            'loss_localization': (self.gamma, lambda: self._misplaced(step.student, answers)),
        }
        for name, (schedule, term) in taught.items():
            if (weight := schedule(step.progress)) > 0:
                terms[name] = weight * term()
        return terms

    def _maps(self, step: Step) -> list[Tensor]:
        """The student's maps of the batch; with ``rotations`` those of its rotations behind them."""
        maps = [as_map(t).float() for tap in self.maps for t in step.student[tap]]
        if not self.rotations:
            return maps
        assert step.rerun is not None
        self._refuse_oblong(step.inputs)
        turned = step.rerun(rotated(step.inputs), self.maps)
        others = [as_map(t).float() for tap in self.maps for t in turned[tap]]
        return [torch.cat(views) for views in zip(maps, others)]

    def _distance(self, maps: list[Tensor], refined: tuple[Tensor, ...]) -> Tensor:
        """The feature term, summed over levels, of activated maps; the targets give no gradient."""
        active, fixed = [F.relu(m) for m in maps], [t.detach() for t in refined]
        if self.feature == 'fitnet':
            triples = zip(self.adapters, active, fixed)
            distances = [F.mse_loss(adapt(own), t) for adapt, own, t in triples]
        else:
            distances = [self._compare(own, t) for own, t in zip(active, fixed)]
        return torch.stack(distances).sum()

    def _divergence(self, student: Features, teacher: Features) -> Tensor:
        assert self.divergence is not None
        sides = ([t for tap in self.logits for t in side[tap]] for side in (student, teacher))
        return self.divergence(*sides)

    def _misplaced(self, student: Features, teacher: Features) -> Tensor:
        """How far the boxes are from the self-teacher's where it is sure of an object."""
        assert self.divergence is not None
        assert self.localization is not None
        sure = self.divergence.confidence([t for tap in self.logits for t in teacher[tap]])
        boxes = self.localization.tap
        return self.localization(student[boxes], teacher[boxes], sure)

    def _rois(self, step: Step) -> Rois:
        return {
            roi_part(tap): step.student.calls(boxes)[0][1].detach()
            for tap, boxes in zip(self.logits, self.boxes)
        }

    # -- wrong input ----------------------------------------------------------------------------

    def _refuse_task(self, student: nn.Module, task: str) -> None:
        name = type(student).__name__
        if task not in ALPHA:
            raise InputError(
                f'FRSKD: {name} does none of {", ".join(ALPHA)}; a self-teacher needs its labels'
            )
        if self.rotations and task != 'classification':
            raise InputError(
                f'FRSKD: rotations=True is for classification, {name} does {task}; leave it out'
            )
        head = logit_head(student)
        if task == 'classification' and is_sigmoid(head):
            raise InputError(
                f'FRSKD: the head of {name} has sigmoid classes; the self-teacher of a classifier '
                'is trained with cross-entropy: needed: a softmax head with one label for an image'
            )

    def _refuse_idle_options(self, student: nn.Module, task: str) -> None:
        """Options that would have no effect on this student."""
        gamma = self._given['gamma']
        if gamma is not None and self.localization is None:
            raise InputError(
                f'FRSKD: gamma={gamma!r}; the boxes of {type(logit_head(student)).__name__} are not '
                'compared, only those of dense heads with bins or a plain box coder; leave it out'
            )
        if self.head == 'shared' and task == 'classification':
            raise InputError(
                "FRSKD: head='shared'; a classifier's self-teacher has more channels than the "
                "student's head reads; needed: head='own'"
            )

    def _refuse_oblong(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        if height != width:
            raise InputError(
                f'FRSKD: rotations=True; the images of the batch are {height}x{width}; needed: square '
                'ones (RandomResizedCrop or Resize in the train pipeline), or rotations=False'
            )


def _schedule(value: Any, default: float, task: str) -> Schedule:
    """A number becomes the task's ramp to it; a schedule stays what it is."""
    value = default if value is None else value
    ramped = isinstance(value, (int, float)) and task != 'classification'
    return build_schedule({**RAMP, 'value': value} if ramped else value)


def _classes(student: Side, taps: list[Tap]) -> tuple[int, int]:
    """How many classes a classifier's logits have, and how many vectors; a head that gives none is refused."""
    shapes = [shape for _, shape in levels_of(student, taps)]
    classes: Any = getattr(logit_head(student.model), 'num_classes', None)
    if not shapes or any(len(shape) != 2 or shape[1] != classes for shape in shapes):
        raise InputError(
            f'FRSKD: the head of {student.owner} gives {[tuple(s) for s in shapes]} and has '
            f'num_classes={classes}; needed: vectors of class logits, as of a LinearClsHead'
        )
    return shapes[0][1], len(shapes)
