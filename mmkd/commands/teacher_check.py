"""Whether a teacher is better than its student: both are evaluated on some images before training."""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import MMLogger, print_log
from mmengine.runner import Runner
from torch import nn

from ..collectives import on_any_rank, rank, world_size
from ..core.distiller import Distiller, untouched_randomness
from ..core.teacher import WORTH
from ..errors import InputError, reason_of
from ..family.building import is_distiller
from ..family.heads import class_count
from ..family.stages import task_of
from ..training.method_optimizers import bare
from .arms import decisive, numbers_in

KEY = 'check_teacher'
"""The option of a config: a number of images; 0 for none."""
IMAGES = 64
"""By default so many, in trainings that are long enough."""
NOTHING = 0.01
"""What is below so much of the best possible score is about nothing."""


@dataclass
class Check:
    """What came out.

    Attributes:
        images: behind each score.
        metric: the name of the score.
        teachers: the score of each.
        student: the score of a student that starts from a checkpoint; None of one that starts anew.
        metrics: all that was measured of the first teacher.
    """

    images: int
    metric: str = ''
    teachers: dict[str, float] = field(default_factory=dict)
    student: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class TeacherCheckHook(Hook):
    """Evaluates teachers, and a student that starts from a checkpoint, by the Runner's own evaluator.

    It changes nothing of the training: random generators are put back, and models are as they were.
    """

    priority = 5  # before anything is sharded

    def __init__(self) -> None:
        self.found: Check | None = None
        self.said: list[str] = []

    def before_train(self, runner: Runner) -> None:
        """Say both numbers, and warn of a teacher that has nothing to teach."""
        images = images_to_check(runner)
        teachers = {} if not images else teachers_to_check(runner)
        if not teachers:
            return
        begin = time.time()
        print_log(
            f'{KEY}: evaluates {", ".join(teachers)} on {images} validation images', 'current'
        )
        self.found = check(runner, teachers, images)
        if self.found is None:
            return
        print_log(f'{in_words(self.found)} ({time.time() - begin:.0f} s)', 'current')
        self.said = alarms(self.found, chance_of(runner))
        for text in self.said:
            print_log(text, 'current', logging.WARNING)


def images_to_check(runner: Runner) -> int:
    """How many images are asked for; by default none in a training that is too short for it."""
    if runner._resume or runner.val_loop is None or not isinstance(bare(runner), Distiller):
        return 0
    asked = runner.cfg.get(KEY)
    if asked is None:
        asked = IMAGES if runner.max_iters >= WORTH else 0
    return min(asked, len(runner.val_dataloader.dataset))


def refuse_wrong_check(cfg: Mapping[str, Any]) -> None:
    """Answer a number of images that is none, and one without anything to evaluate.

    >>> refuse_wrong_check(dict(check_teacher=-1))
    Traceback (most recent call last):
    ...
    mmkd.errors.InputError: check_teacher=-1; needed: a number of validation images, 0 for none
    """
    asked = cfg.get(KEY)
    if asked is None:
        return
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 0:
        raise InputError(f'{KEY}={asked!r}; needed: a number of validation images, 0 for none')
    if asked and not (is_distiller(cfg['model']) and cfg['model'].get('teacher')):
        raise InputError(f'{KEY}={asked}: there is no teacher; leave it out, or add --distill')
    if asked and cfg.get('val_dataloader') is None:
        raise InputError(f'{KEY}={asked}: val_dataloader is missing in the config; leave it out')


def teachers_to_check(runner: Runner) -> dict[str, nn.Module]:
    """Those that can be evaluated on the student's data: of its task and its number of classes."""
    found, student = {}, bare(runner)
    for name, teacher in student.distillation.teachers.items():
        ours, theirs = class_count(student), class_count(teacher.model)
        alike = task_of(student) == task_of(teacher.model) and ours[1] == theirs[1]
        if alike and theirs[1] is not None:
            found[name] = teacher.model
        else:
            why = 'it is of another task, or of other classes, than the student'
            print_log(f'{KEY}: {teacher.owner} is not evaluated: {why}', 'current')
    return found


# -- evaluating ------------------------------------------------------------------------------------


def check(runner: Runner, guides: Mapping[str, nn.Module], images: int) -> Check | None:
    """Evaluate; None, and a warning, where that cannot be done."""
    found = Check(images)
    device = next(bare(runner).parameters()).device
    models = dict(guides)
    if starts_from_checkpoint(runner):
        models[''] = bare(runner)
    scores: dict[str, Mapping[str, float]] = {}
    try:
        for name, model in models.items():
            if name:  # a teacher's preprocessor has not been told where it is
                model.data_preprocessor.to(device)
            scores[name] = evaluated_on(runner, model, images)
    except Exception as error:  # of an evaluator that was made for whole data sets, say
        print_log(f'{KEY}: not done ({reason_of(error)})', 'current', logging.WARNING)
        return None
    known = list(dict.fromkeys(metric for own in scores.values() for metric in own))
    metric = decisive(known, runner.cfg.get('default_hooks') or {}) or next(
        iter(known), 'the score'
    )
    numbers = {name: float(own.get(metric, 0.0)) for name, own in scores.items()}
    found.metric, found.student = metric, numbers.pop('', None)
    found.teachers, found.metrics = numbers, dict(scores[next(iter(guides))])
    return found


def starts_from_checkpoint(runner: Runner) -> bool:
    """Whether the student has learnt something already."""
    student = (runner.cfg.get('model') or {}).get('student') or {}
    init = student.get('init_cfg') or {}
    whole = init.get('type') == 'Pretrained' if isinstance(init, Mapping) else False
    return runner._load_from is not None or whole


@torch.no_grad()
def evaluated_on(runner: Runner, model: nn.Module, images: int) -> dict[str, float]:
    """The metrics of a model on some images of the validation set, spread over it evenly."""
    evaluator, loader = runner.val_loop.evaluator, runner.val_dataloader
    chosen = spread(len(loader.dataset), images, world_size())
    own, size = chosen[rank() :: world_size()], getattr(loader, 'batch_size', None) or 1
    failed: Exception | None = None
    with evaluating(model), restricted(evaluator, loader.dataset, chosen):
        try:
            for first in range(0, len(own), size):
                data = loader.collate_fn([loader.dataset[i] for i in own[first : first + size]])
                evaluator.process(data_samples=model.val_step(data), data_batch=data)  # type: ignore[operator]
        except Exception as error:
            failed = error
        if on_any_rank(failed is not None)[0]:  # all ranks at once, who would wait for each other
            raise failed or RuntimeError('it failed on another rank')
        metrics = evaluator.evaluate(len(chosen))
    return numbers_in(metrics)


def spread(of: int, images: int, ranks: int = 1) -> list[int]:
    """So many places of a data set, evenly over it: neighbours are often alike; as many on each rank.

    >>> spread(10, 4), spread(10, 3, ranks=2)
    ([0, 2, 5, 7], [0, 3, 6, 0])
    """
    places = [i * of // images for i in range(images)]
    return places + (places * ranks)[: -images % ranks]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode, quiet, and without a trace in random generators."""
    modes = {module: module.training for module in model.modules()}
    logger = MMLogger.get_current_instance()
    level = logger.level
    model.eval()
    logger.setLevel(logging.ERROR)  # tables of an evaluation that is not the student's
    try:
        with untouched_randomness(), redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def restricted(evaluator: Any, dataset: Any, chosen: Sequence[int]) -> Iterator[None]:
    """Let metrics that go by an annotation file know of these images alone."""
    by_file = [metric for metric in evaluator.metrics if hasattr(metric, 'img_ids')]
    before = [metric.img_ids for metric in by_file]
    for metric in by_file:
        metric.img_ids = [*dict.fromkeys(dataset.get_data_info(i)['img_id'] for i in chosen)]
    try:
        yield
    finally:
        for metric, ids in zip(by_file, before):
            metric.img_ids = ids
        for metric in evaluator.metrics:
            metric.results.clear()


# -- what is said of it ----------------------------------------------------------------------------


def in_words(found: Check) -> str:
    """All numbers.

    >>> in_words(Check(64, 'accuracy/top1', {'teacher': 71.25}, 60.0))
    "check_teacher: accuracy/top1 on 64 validation images: teacher 71.25, the student's start 60"
    """
    parts = [f'{name} {value:.4g}' for name, value in found.teachers.items()]
    parts += [] if found.student is None else [f"the student's start {found.student:.4g}"]
    return f'{KEY}: {found.metric} on {found.images} validation images: {", ".join(parts)}'


def chance_of(runner: Runner) -> Callable[[int], float]:
    """The score, as a function of the number of images, that is about nothing."""
    student = bare(runner)
    if task_of(student) == 'detection':
        return lambda images: NOTHING
    if task_of(student) != 'classification':
        return lambda images: 100 * NOTHING
    guess = 1 / (class_count(student)[1] or 1000)
    return lambda images: 100 * max(NOTHING, guess + 2 * math.sqrt(guess * (1 - guess) / images))


def alarms(found: Check, chance: Callable[[int], float]) -> list[str]:
    """Warnings of teachers that have nothing to teach."""
    said = []
    for name, score in found.teachers.items():
        numbers = (
            f'{KEY}: {name} reaches {found.metric} {score:.4g} on {found.images} validation images'
        )
        if score <= chance(found.images):
            said.append(
                f'{numbers}, about what guessing does ({chance(found.images):.4g}). Its config, checkpoint and '
                'classes must be of one training (mmkd test CONFIG CHECKPOINT evaluates it on its own data); a '
                'teacher that was trained on other data has to be trained on yours first'
            )
        elif found.student is not None and score <= found.student:
            said.append(
                f"{numbers}, no more than the student's start ({found.student:.4g}): it has little to teach. "
                'Take a better teacher (mmkd rank-teachers), or compare on more images (--check-teacher N)'
            )
    return said
