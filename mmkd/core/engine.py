"""What a Distiller adds to its student: teachers, methods, and the way of the data through them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmengine.logging import MessageHub, print_log
from torch import Tensor, nn

from ..collectives import on_any_rank
from ..errors import InputError
from ..family.roi import Rois, box_tap, in_roi_head, roi_part
from ..family.running import Probe, observe, probe
from ..family.samples import own_samples
from ..family.taps import Features, Tap, capture
from .checks import (
    Weighty,
    refuse_bad,
    refuse_nonfinite,
    refuse_unreaching,
    settle,
    tensors_of,
    totals_of,
)
from .likeness import class_difference, refuse_scale
from .listening import listens_to
from .method import Method
from .readings import Readings
from .schedules import progress
from .shares import EVERY, Shares
from .silence import Silence
from .step import Side, Step
from .teacher import Teacher
from .unlabelled import freeze_unreached, nothing, refuse_readers_of_labels

Losses = dict[str, Any]

STUDENT = 'the student'


class Distillation(nn.Module):
    """Teachers and methods, and one training step of theirs.

    The methods are submodules: their parameters are trained and saved. The teachers are not: they
    are in no state dict, no optimiser and no averaged copy, and only follow the model to its device
    and number format.

    Args:
        student: the student; it is looked at, not kept.
        config: its model config.
        teachers: by name.
        methods: by name; each is set up here, with dry runs of the networks.
        check_gradients: in the first iteration in which a loss term has weight, make sure that its
            gradient reaches the student.
        skip_nonfinite: how many iterations may be left out because a loss was NaN or infinite, on any
            rank; the next one stops training. Buffers of the student are put back.
        image_size: the size of image at which dry runs are tried first.
        labels: whether the student's own losses are trained; without them only what the taps depend on is.
        share_every: iterations between two measurements of each method's gradient share; 0 for none.
    """

    def __init__(
        self,
        student: nn.Module,
        config: Mapping[str, Any],
        teachers: Mapping[str, Teacher],
        methods: Mapping[str, Method],
        check_gradients: bool = True,
        skip_nonfinite: int = 0,
        image_size: int | None = None,
        labels: bool = True,
        share_every: int = EVERY,
    ) -> None:
        super().__init__()
        if not isinstance(skip_nonfinite, int) or skip_nonfinite < 0:
            raise InputError(f'skip_nonfinite={skip_nonfinite!r}; needed: a whole number from 0 on')
        if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
            raise InputError(f'image_size={image_size!r}; needed: a number of pixels, or None')
        self.teachers, self.shares = dict(teachers), Shares(share_every)
        self.check_gradients, self.labels = check_gradients, labels
        self.skip_nonfinite, self.skipped = skip_nonfinite, 0
        self.skipping = False
        self.optimizers_installed = False
        self._reaching: set[str] = set()
        self._silence, self._weighty, self._verdicts = (
            Silence(),
            Weighty(),
            (Readings(), Readings()),
        )
        self._started = False
        self._listens = {name: listens_to(name, m, self.teachers) for name, m in methods.items()}
        for name, method in methods.items():
            self._refuse_name(name)
            self.add_module(name, method)
        self._probed = self._set_up(student, config, image_size)

    @property
    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {name: m for name, m in self.named_children() if isinstance(m, Method)}

    def teacher_of(self, name: str) -> Teacher | None:
        """The teacher that a method listens to."""
        teacher = self._listens[name]
        return None if teacher is None else self.teachers[teacher]

    def forward(
        self, student: nn.Module, task: Callable[[], Losses], inputs: Tensor, samples: Any
    ) -> Losses:
        """Run the student's task, observe it and the teachers, and add what the methods say."""
        now = progress()
        weights = {name: method.weight(now) for name, method in self.methods.items()}
        active = {name: m for name, m in self.methods.items() if weights[name] > 0}
        if not (self.labels or active):
            self._start(student)
            return self._touched(nothing(student), now)
        buffers = [(b, b.clone()) for b in student.buffers()] if self.skip_nonfinite else []
        given = own_samples(samples) if any(m.trains_heads for m in active.values()) else samples
        with self._captured(student, active, inputs, samples) as features:
            losses = dict(task()) if self.labels else {}
        # dry runs go no further than the taps: what a head overwrites is seen here, and cloned from now on
        self._probed.overwritten |= features.overwritten()
        self._start(student)
        if self.labels and not self._finite(losses, self._verdicts[0]):
            return self._left_out(inputs, buffers)
        terms: Losses = {}
        rerun = self._rerun(student, inputs.device.type)
        with torch.autocast(inputs.device.type, enabled=False):
            answers = self._ask(active, features, inputs, samples)
            own = dict(losses)
            scale_losses(losses, math.prod(method.task_weight for method in active.values()))
            for name, method in active.items():
                teacher = answers.get(self._listens[name] or '')
                values = method(Step(inputs, given, now, features, teacher, own, rerun))
                factors = method.loss_weights(values, weights[name], losses, features)
                terms.update(_weighted(name, values, factors))
        if terms and not self._finite(terms, self._verdicts[1]):
            return self._left_out(inputs, buffers)
        self._check_reaching(terms, features)
        if self.labels and active and self.shares.due(active):
            tapped = {n: features.trained(m.student_taps) for n, m in active.items()}
            self.shares.measure(losses, terms, tapped)
        return self._touched(losses | terms | self.shares.of(active), now)

    def idle_parameters(self, now: float) -> list[nn.Parameter]:
        """The methods' parameters that have no part in the losses at a point of training."""
        return [
            p
            for method in self.methods.values()
            for p in (
                method.idle_parameters(now) if method.weight(now) > 0 else method.parameters()
            )
            if p.requires_grad
        ]

    def after_init(self, student: nn.Module) -> None:
        """Let the methods act on the student's fresh weights."""
        for name, method in self.methods.items():
            method.after_init(student, self._model_for(name))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distillation:
        for teacher in self.teachers.values():
            teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)

    # -- set-up ---------------------------------------------------------------------------------

    def _set_up(
        self, student: nn.Module, config: Mapping[str, Any], image_size: int | None
    ) -> Probe:
        for name, method in self.methods.items():
            method.plan(student, self._model_for(name))
        probed = probe(student, self._student_taps(self.methods), STUDENT, [image_size])
        for name, teacher in self.teachers.items():
            listeners = [m for n, m in self.methods.items() if self._listens[n] == name]
            teacher.learn_input(student)
            taps = (tap for method in listeners for tap in method.teacher_taps)
            teacher.probe(taps, [probed.image])
            print_log(teacher.summary(), 'current')
        for name, method in self.methods.items():
            ours = Side(student, config, probed.shapes, STUDENT, probed.image)
            method.choose_weight(ours.task)
            theirs = self._side(name)
            if not method.scaled:
                refuse_scale(f'methods.{name}: {method.__class__.__name__}', theirs)
            method.setup(ours, theirs)
        if not self.labels:
            refuse_readers_of_labels(self.methods, Side(student, config, {}, STUDENT))
            idle = freeze_unreached(student, self._student_taps(self.methods), probed.image)
            print_log(f'without labels: {idle} tensors of the student are not trained', 'current')
        return probed

    def _side(self, name: str) -> Side | None:
        teacher = self.teacher_of(name)
        return None if teacher is None else side_of(teacher)

    def _model_for(self, name: str) -> nn.Module | None:
        teacher = self.teacher_of(name)
        return None if teacher is None else teacher.model

    # -- one step -------------------------------------------------------------------------------

    def _student_taps(self, active: Mapping[str, Method]) -> list[Tap]:
        taps = [tap for method in active.values() for tap in method.student_taps]
        return taps + [boxes for _, boxes in _roi_links(active.values())]

    def _ask(
        self, active: Mapping[str, Method], features: Features, inputs: Tensor, samples: Any
    ) -> dict[str, Features]:
        """The answers of every teacher that an active method listens to."""
        answers = {}
        for name in dict.fromkeys(self._listens[n] for n in active):
            if name is None:
                continue
            listeners = [m for n, m in active.items() if self._listens[n] == name]
            taps = [tap for method in listeners for tap in method.teacher_taps]
            rois: Rois = {
                roi_part(tap): _of_images(features.calls(boxes)[0][1].detach(), len(inputs))
                for tap, boxes in _roi_links(listeners)
            }
            answers[name] = self.teachers[name].observe(inputs, samples, taps, rois)
        return answers

    def _touched(self, losses: Losses, now: float) -> Losses:
        """The losses with the parameters that have no part in them yet, by zero.

        Distributed training waits for the gradient of every parameter, and a parameter without a
        gradient would be trained otherwise on one rank than on several.
        """
        idle = [p.sum() for p in self.idle_parameters(now)]
        if idle:
            name = next(name for name, value in losses.items() if 'loss' in name)
            first, *rest = tensors_of(losses[name])
            first = first + 0.0 * torch.stack(idle).sum()
            losses[name] = [first, *rest] if rest else first
        return losses

    def _captured(
        self, student: nn.Module, active: Mapping[str, Method], inputs: Tensor, samples: Any
    ) -> AbstractContextManager[Features]:
        """Opens a capture in which the student is run; without labels it is run here, to its taps."""
        taps = self._student_taps(active)
        if not self.labels:
            return nullcontext(self._rerun(student, inputs.device.type)(inputs, taps, samples))
        places = {tap.place for tap in taps}
        return capture(student, places, copied=self._probed.overwritten, owner=STUDENT)

    def _rerun(self, student: nn.Module, device: str) -> Callable[..., Features]:
        """The student once more, in the precision in which it has just run."""
        mixed, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

        def rerun(inputs: Tensor, taps: Iterable[Tap], samples: Any = None) -> Features:
            asked, counts, copied = list(taps), self._probed.counts, self._probed.overwritten
            until = {tap.place: counts[tap.place] for tap in asked}
            with torch.autocast(device, dtype, enabled=mixed):
                return observe(
                    student, asked, inputs, samples, until=until, copied=copied, owner=STUDENT
                )

        return rerun

    def _check_reaching(self, terms: Losses, features: Features) -> None:
        """Once for each term, as soon as it has weight; all ranks at once, whose SyncBN may need that."""
        if not (self.check_gradients and torch.is_grad_enabled()):
            return
        waiting = {term: value for term, value in terms.items() if self._unchecked(term)}
        for term, (weighs, silent) in self._weighty(waiting).items():
            if weighs and term in waiting:
                refuse_unreaching(term, terms[term], features)
                self._reaching.add(term)
            else:
                self._silence.note(term, silent)

    def _unchecked(self, term: str) -> bool:
        name, _, own = term.partition('/')
        if 'loss' not in own or term in self._reaching:
            return False
        return self.methods[name].reaches_student(own)

    def settle(self) -> None:
        """Stop if a loss of the last iteration was not finite on any rank; all ranks must come here.

        On a GPU that is otherwise seen one iteration later. Called before anything is saved.
        """
        settle(*self._verdicts)

    def _finite(self, losses: Losses, verdicts: Readings) -> bool:
        """Whether all losses are finite, on all ranks if an iteration may be left out; else a stop."""
        if not self.skip_nonfinite:
            refuse_bad(verdicts([*losses], totals_of(losses)))
            return True
        problem: FloatingPointError | None = None
        try:
            refuse_nonfinite(losses)
        except FloatingPointError as error:
            problem = error
        if not on_any_rank(problem is not None)[0]:
            return True
        problem = problem or FloatingPointError('not finite: a loss of another rank')
        self.skipped += 1
        if self.skipped > self.skip_nonfinite:
            raise FloatingPointError(
                f'{problem} (skip_nonfinite={self.skip_nonfinite} are used up)'
            )
        print_log(f'iteration left out: {problem}', 'current', logging.WARNING)
        return False

    def _left_out(self, inputs: Tensor, buffers: list[tuple[Tensor, Tensor]]) -> Losses:
        """A loss of 0 that trains nothing: the hook keeps the optimiser from stepping."""
        self.skipping = True
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        return {'loss_left_out': inputs.new_zeros((), requires_grad=True)}

    def _start(self, student: nn.Module) -> None:
        """When the first batch comes: what could not be known at construction."""
        self.skipping = False
        if self._started:
            return
        self._started = True
        self._report_classes(student)
        if self.skip_nonfinite and not self.optimizers_installed:
            raise InputError(
                f'skip_nonfinite={self.skip_nonfinite}: no hook leaves iterations out; add '
                "custom_hooks=[dict(type='mmkd.DistillationHook')] to the config"
            )
        waiting = [name for name, method in self.methods.items() if method.optimizer is not None]
        if waiting and not self.optimizers_installed:
            raise InputError(
                f'methods.{waiting[0]}: brings its own optimizer, and no hook runs it; add '
                "custom_hooks=[dict(type='mmkd.DistillationHook')] to the config (tools/train.py "
                'and mmkd.distill do so), or optimizer=None to train it with the student'
            )

    def _report_classes(self, student: nn.Module) -> None:
        meta = MessageHub.get_current_instance().get_info('dataset_meta') or {}
        ours = tuple(str(name) for name in meta.get('classes') or ())
        for teacher in self.teachers.values():
            if said := class_difference(student, teacher.model, ours, teacher.classes or ()):
                print_log(f'{teacher.owner} {said}', 'current', logging.WARNING)

    def _refuse_name(self, name: str) -> None:
        if not name.isidentifier() or 'loss' in name or hasattr(self, name):
            raise InputError(
                f"methods: the name {name!r} cannot be used; needed: an identifier without 'loss' "
                'that is no attribute of a torch module'
            )


def side_of(teacher: Teacher) -> Side:
    """What a method may know of a teacher, once it has been probed."""
    seen = teacher.probed
    image = round(seen.image / teacher.scale)
    return Side(teacher.model, teacher.config, seen.shapes, teacher.owner, image, teacher.scale)


def scale_losses(losses: Losses, factor: float) -> None:
    """Multiply the terms that are trained; statistics beside them stay.

    >>> losses = {'loss_cls': torch.ones(()), 'acc': torch.ones(())}
    >>> scale_losses(losses, 0.5)
    >>> losses['loss_cls'], losses['acc']
    (tensor(0.5000), tensor(1.))
    """
    if factor == 1.0:
        return
    for name, value in losses.items():
        if 'loss' in name:
            many = isinstance(value, (list, tuple))
            losses[name] = [v * factor for v in value] if many else value * factor


def _weighted(name: str, values: Mapping[str, Tensor], factors: Mapping[str, float]) -> Losses:
    """A method's losses times their weights, and its statistics, under the method's name."""
    return {
        f'{name}/{term}': value * factors[term] if term in factors else value.detach()
        for term, value in values.items()
    }


def _of_images(rois: Tensor, images: int) -> Tensor:
    """Boxes by image; a student that runs branches of its own on a batch (TridentNet) has them by branch."""
    return torch.cat([rois[:, :1] % images, rois[:, 1:]], 1)


def _roi_links(methods: Iterable[Method]) -> list[tuple[Tap, Tap]]:
    """Each teacher tap in a RoI head, with the student's tap at which the boxes for it pass."""
    return [
        (theirs, box_tap(ours))
        for method in methods
        for ours, theirs in zip(method.student_taps, method.teacher_taps)
        if in_roi_head(theirs)
    ]
