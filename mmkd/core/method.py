"""What every method is: taps that it needs, and named losses that it makes of what passes there."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from torch import Size, Tensor, nn

from ..errors import InputError, nearest, refuse_unknown
from ..family.heads import class_count
from ..family.stages import backbone_of, both_maps, stage_taps, task_of
from ..family.taps import Features, Tap, has_modules, parse_taps
from ..losses.layout import laid_out_like
from ..necks.adapters import Adapter, as_map, as_maps
from ..registry import MODELS
from .levels import levels_of, pair_by_stride, sizes_at
from .options import Checked, Has, ReadBy, annotations_of
from .schedules import Schedule, Weight, build_schedule
from .shares import SHARE, GradientShare, gradient_norms, total
from .step import Side, Step

Taps = Annotated[Any, ReadBy(parse_taps, 'a tap or a list of taps')]
"""What an option may be that :func:`parse_taps` reads."""


class Method(Checked, nn.Module):
    """One knowledge-distillation method.

    A subclass says in :meth:`plan` which taps it needs, builds its adapters in :meth:`setup`, when
    the shapes at the taps are known, and turns what passes there into losses in :meth:`forward`.

    Args:
        weight: a number or a schedule; by default the task's entry in ``weights``.
        teacher: the name of the teacher it listens to, where there are several.
        optimizer: an optimiser for the method's own parameters; without it they are in the
            student's. ``dict(type='AdamW', lr=1e-4)``.
        param_scheduler: schedulers for that optimiser, as in an mmengine config.
    """

    needs_teacher: ClassVar[bool] = True
    runs_teacher: ClassVar[bool] = False
    """Whether it runs parts of the teacher by itself, on what is another in every step."""
    task_weight: float = 1.0
    """What the student's own losses are multiplied by while the method has weight."""
    scaled: ClassVar[bool] = False
    """Whether its teacher may see the batch at another resolution."""
    trains_heads: ClassVar[bool] = False
    """Whether heads of its own learn, with the labels as they were before the student's heads."""
    ramped: ClassVar[bool] = False
    """Whether its terms have schedules beside the method's weight."""
    weights: ClassVar[dict[str, float]] = {}
    """The published weight for each task."""
    shares: ClassVar[dict[str, float]] = {}
    """The share of the task's gradient that ``weight='auto'`` aims at for each task."""

    def __init__(
        self,
        weight: Weight | None = None,
        teacher: str | None = None,
        optimizer: Annotated[Mapping[str, Any], Has('type')] | None = None,
        param_scheduler: Sequence[Annotated[Mapping[str, Any], Has('type')]] | None = None,
    ) -> None:
        super().__init__()
        self._weight: Schedule | None = None if weight is None else build_schedule(weight)
        self.teacher_name = teacher
        self.optimizer = optimizer
        self.param_scheduler = param_scheduler or []
        self.student_taps: list[Tap] = []
        self.teacher_taps: list[Tap] = []

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Set ``student_taps`` and ``teacher_taps`` for these models."""

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Build what depends on the shapes at the taps; called once, before training."""

    def after_init(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Called when the student's weights have been initialised, before training or resuming."""

    def learn_data(self, dataset: Any) -> None:
        """Told the training data when training begins, by mmkd's hook."""

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Losses and statistics by name. A name with ``loss`` in it is trained; others are logged."""
        raise NotImplementedError

    def reads_labels(self, student: nn.Module) -> str | None:
        """Why it cannot do without labels; None if it can."""
        return None

    def reaches_student(self, term: str) -> bool:
        """Whether a loss must give the student gradient, which is made sure once it has weight."""
        return True

    def idle_parameters(self, progress: float) -> Iterable[nn.Parameter]:
        """Parameters that have no part in the losses yet, though the method has weight."""
        return ()

    def training_state(self) -> Any:
        """What the method remembers between iterations and is no parameter or buffer; it is saved."""
        return None

    def resume_training(self, state: Any) -> None:
        """Take up what :meth:`training_state` gave."""

    def choose_weight(self, task: str) -> None:
        """Fix the weight: the config's, else the published one for the task, else 1."""
        if self._weight is None:
            self._weight = build_schedule(self.weights.get(task, 1.0))
        if self.share is not None:
            self.share.aim(self.shares.get(task, SHARE))
        if self.share is not None and self.ramped:
            raise InputError(
                f"{type(self).__name__}: weight='auto': its terms have ramps of their own, which a share of "
                'the gradient would undo; leave weight out and change the weights of the terms'
            )

    @property
    def share(self) -> GradientShare | None:
        """The gradient share that sets the weight, if one does."""
        return self._weight if isinstance(self._weight, GradientShare) else None

    def weight(self, progress: float) -> float:
        """The weight at a point of training; of a gradient share the share that is aimed at."""
        assert self._weight is not None
        return self._weight(progress)

    def loss_weights(
        self,
        values: dict[str, Tensor],
        weight: float,
        task: Mapping[str, Any],
        features: Features,
    ) -> dict[str, float]:
        """What each loss is multiplied by; a gradient share measures first, and adds its weights to the values.

        Args:
            values: what :meth:`forward` gave.
            weight: the method's weight in this iteration.
            task: the student's own losses.
            features: what passed at the student's taps.
        """
        losses = {term: value for term, value in values.items() if 'loss' in term}
        if self.share is None:
            return dict.fromkeys(losses, weight)
        if self.share.advance() and torch.is_grad_enabled():
            tapped = features.trained(self.student_taps)
            self.share.learn(gradient_norms(total(task), losses, tapped), weight)
        factors = self.share.factors(losses)
        for term, factor in factors.items():
            values[term.replace('loss', 'weight')] = losses[term].new_tensor(factor)
        return factors


class FeatureMethod(Method):
    """A method that brings the student's features near the teacher's, level by level.

    Subclasses state :meth:`distance`. Levels are paired in order where both taps are given, else by stride
    (:func:`pair_by_stride`); the student's map is resized to the teacher's size, and projected by a 1x1
    convolution where channels differ and ``adapts``.

    Args:
        tap: where to read the student: a tap or a list of taps. By default ``neck`` for detectors
            that have one, the backbone's outputs otherwise.
        teacher_tap: where to read the teacher; by default the same, or its own where it is of another task.
        **options: see :class:`Method`.
    """

    adapts: ClassVar[bool] = True
    scaled = True
    compares_positions: ClassVar[bool] = False
    """Whether the distance is constant on maps of a single position."""

    def __init__(
        self, tap: Taps | None = None, teacher_tap: Taps | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self._tap, self._teacher_tap = tap, teacher_tap
        self.adapters = nn.ModuleList()
        self._shapes: list[Size] = []

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The distance of two maps of the same height and width (and channels, if ``adapts``)."""
        raise NotImplementedError

    def plan(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Take the taps that are given, or the default ones, on both sides."""
        if teacher is None:
            self.student_taps = (
                self.default_taps(student) if self._tap is None else parse_taps(self._tap)
            )
            return
        self.student_taps, theirs = self.default_pair(student, teacher)
        if self._tap is not None:
            self.student_taps = parse_taps(self._tap)
            alike = task_of(student) == task_of(teacher)
            if alike or has_modules(teacher, self.student_taps):
                theirs = self.student_taps
        self.teacher_taps = theirs if self._teacher_tap is None else parse_taps(self._teacher_tap)

    @property
    def level_taps(self) -> tuple[list[Tap], list[Tap]]:
        """The student's and the teacher's taps whose levels are compared."""
        return self.student_taps, self.teacher_taps

    def default_taps(self, student: nn.Module) -> list[Tap]:
        """Where to read when the config does not say."""
        has_neck = getattr(student, 'neck', None) is not None
        detects = task_of(student) == 'detection'
        return [Tap('neck' if detects and has_neck else backbone_of(student))]

    def default_pair(self, student: nn.Module, teacher: nn.Module) -> tuple[list[Tap], list[Tap]]:
        """Where to read both when the config does not say; every stage of a teacher of another task."""
        if task_of(student) != task_of(teacher):
            return self.default_taps(student), stage_taps(teacher)
        return both_maps(student, teacher, self.default_taps(student), self.default_taps(teacher))

    def setup(self, student: Side, teacher: Side | None) -> None:
        """Build an adapter for each level."""
        assert teacher is not None
        for (what, shape), (_, target) in self.paired_levels(student, teacher):
            self.adapters.append(self._adapter(what, shape, target, student.image))
        refuse_other_logits(self.label, student, teacher, self.level_taps)
        if self.compares_positions:
            for side, taps in zip((student, teacher), self.level_taps):
                refuse_single_positions(self.label, side, taps)

    def paired_levels(
        self, student: Side, teacher: Side
    ) -> list[tuple[tuple[str, Size], tuple[str, Size]]]:
        """The levels of both sides in words and shape; as many on each, or it is an error."""
        if self._tap is None or self._teacher_tap is None:
            old = self.level_taps
            new = pair_by_stride(self.label, student, teacher, *old)
            self.student_taps = [*new[0], *(t for t in self.student_taps if t not in old[0])]
            self.teacher_taps = [*new[1], *(t for t in self.teacher_taps if t not in old[1])]
        taps, target_taps = self.level_taps
        ours, theirs = levels_of(student, taps), levels_of(teacher, target_taps)
        if len(ours) != len(theirs):
            raise InputError(
                f'{self.label}: {student.owner} has {len(ours)} levels at {_names(taps)} '
                f'{[tuple(shape) for _, shape in ours]}, {teacher.owner} has {len(theirs)} at '
                f'{_names(target_taps)} {[tuple(shape) for _, shape in theirs]}; choose pairs with '
                'tap=dict(at=..., levels=[...]) and teacher_tap=dict(at=..., levels=[...])'
            )
        self._shapes = [shape for _, shape in ours]
        return list(zip(ours, theirs))

    def forward(self, step: Step) -> dict[str, Tensor]:
        """One loss: the distances of all levels, summed."""
        distances = [self.distance(s, t) for s, t in self.pairs(step)]
        return {'loss': sum(distances[1:], distances[0])}

    def pairs(self, step: Step) -> list[tuple[Tensor, Tensor]]:
        """The maps of both sides, level by level, ready to be compared."""
        return [
            (adapter(student, teacher.shape[-2:]), teacher)
            for adapter, (student, teacher) in zip(self.adapters, self.raw_pairs(step))
        ]

    def raw_pairs(self, step: Step) -> list[tuple[Tensor, Tensor]]:
        """The maps of both sides, level by level, as they were tapped."""
        taps, target_taps = self.level_taps
        ours = as_probed([t for tap in taps for t in step.student[tap]], self._shapes)
        theirs = [t for tap in target_taps for t in step.answers()[tap]]
        height, width = step.inputs.shape[-2:]
        side = height if height == width else (height, width)
        maps = (as_maps(s, t, side) for s, t in zip(ours, theirs))
        return [(s, laid_out_like(s, t)) for s, t in ((s.float(), t) for s, t in maps)]

    @property
    def label(self) -> str:
        """How messages call the method."""
        return type(self).__name__

    def _adapter(self, what: str, shape: Size, target: Size, image: int) -> Adapter:
        where = f'{self.label}: {what}: student {tuple(shape)} against teacher {tuple(target)}'
        ours, theirs = (torch.empty(s, device='meta') for s in (shape, target))
        channels = [blank.shape[1] for blank in as_maps(ours, theirs, image, where)]
        return Adapter(*channels) if self.adapts else Adapter(channels[0], channels[0])


def as_probed(tensors: list[Tensor], shapes: list[Size]) -> list[Tensor]:
    """Of what passed, what the dry run saw: in training some networks give auxiliary tensors besides.

    >>> [t.shape[1] for t in as_probed([torch.zeros(2, c, 1, 1) for c in (8, 4)], [Size((1, 4, 1, 1))])]
    [4]
    """
    if not shapes or len(tensors) <= len(shapes):
        return tensors
    waiting, kept = list(shapes), []
    for tensor in tensors:
        if waiting and tensor.shape[1:2] == waiting[0][1:2]:
            kept.append(tensor)
            waiting.pop(0)
    return kept


def refuse_single_positions(method: str, side: Side, taps: list[Tap]) -> None:
    """Stop if a level has a single position whatever the image: what is compared there is constant."""
    sizes = sizes_at(side, taps)
    if (1, 1) not in sizes or (1, 1) not in (larger := sizes_at(side.larger(), taps)):
        return
    what, shape = levels_of(side, taps)[larger.index((1, 1))]
    raise InputError(
        f'{method}: {what} of {side.owner} has a single position {tuple(shape)} however large the image, '
        'and its distance there is always 0; needed: maps with more than one position, so tap a place '
        'before the pooling (tools/list_taps.py CONFIG)'
    )


def refuse_other_logits(
    method: str, student: Side, teacher: Side, taps: tuple[list[Tap], list[Tap]]
) -> None:
    """Stop if class scores of other classes are compared as if they were features."""
    (head, ours), (_, theirs) = (class_count(side.model) for side in (student, teacher))
    if ours is None or theirs is None or ours == theirs:
        return
    for (what, shape), (_, target) in zip(levels_of(student, taps[0]), levels_of(teacher, taps[1])):
        channels = [as_map(torch.empty(s, device='meta')).shape[1] for s in (shape, target)]
        scores = channels[0] % ours == 0 and channels[0] * theirs == channels[1] * ours
        if scores and f"'{head}" in what:
            raise InputError(
                f'{method}: {what} are the scores of {ours} classes, those of {teacher.owner} of '
                f'{theirs}; take a teacher of the same classes, or tap features (tap=...)'
            )


def refuse_other_task(method: Method, student: Side, task: str) -> None:
    """Stop if a method is for one task and the student does another."""
    if student.task != task:
        raise InputError(
            f'{type(method).__name__} is for {task}, {student.owner} ({type(student.model).__name__}) does '
            f'{student.task}; for every task: pkd, cwd, fitnet, at, kd'
        )


def method_names() -> dict[str, type[Method]]:
    """Every registered method by its short name.

    >>> method_names()['pkd'].__name__
    'PKD'
    """
    classes = [c for c in MODELS.module_dict.values() if inspect.isclass(c)]
    return {c.__name__.lower(): c for c in classes if issubclass(c, Method)}


def find_method(name: str) -> type[Method]:
    """The method of a name, as a config (``mmkd.PKD``) or a flag (``pkd``) gives it.

    >>> find_method('pkd') is find_method('mmkd.PKD')
    True
    """
    known = method_names()
    short = name.removeprefix('mmkd.').lower().replace('_', '').replace('-', '')
    if short not in known:
        raise InputError(f'unknown method {name!r}; {nearest(short, known)}')
    return known[short]


def build_method(name: str, config: Mapping[str, Any]) -> Method:
    """Build a method from its config; a wrong option is answered with the nearest right ones."""
    if not isinstance(config, Mapping) or 'type' not in config:
        raise InputError(f"methods.{name}: {config!r}; needed: dict(type='mmkd.PKD', ...)")
    options = dict(config)
    kind = options.pop('type')
    method: Any = find_method(kind) if isinstance(kind, str) else kind
    if not (inspect.isclass(method) and issubclass(method, Method)):
        raise InputError(
            f"methods.{name}: type={kind!r}; needed: a method's name ('mmkd.PKD') or class"
        )
    refuse_unknown(f'methods.{name}', options, annotations_of(method))  # type: ignore[arg-type]
    try:
        return method(**options)
    except InputError as error:
        raise InputError(f'methods.{name}: {error}') from error


def _names(taps: list[Tap]) -> str:
    return ', '.join(repr(tap.at) for tap in taps)
