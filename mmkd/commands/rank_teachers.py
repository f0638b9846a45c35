"""Which of several teachers to take for a student: their scores, what they cost, how far off they are.

All is measured on the student's own data: the score on its validation set, cost and gap on batches of
its training set. The gap of a stage is ``1 - CKA(F_s, F_t)`` where DPK injects prior knowledge.

The rule of the choice (:func:`choose`) is ours, not the DPK paper's. The paper claims that a student's
accuracy rises with its teacher's. So the best score wins; among teachers whose score is within 1 %
(relative) of the best the smallest mean gap wins; among those of them whose mean gap is within 0.05 of
the smallest the cheapest wins. A gap alone chooses nothing: a weak teacher may be near.
"""

from __future__ import annotations

import copy
import math
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, set_random_seed
from rich.console import Console
from rich.progress import track

from ..core.distiller import untouched_randomness
from ..core.engine import side_of
from ..core.step import Step
from ..core.teacher import Teacher
from ..errors import InputError
from ..family.building import is_distiller, load_config, model_config, zoo_checkpoint
from ..family.heads import class_count
from ..files.checkpoints import load_weights, read_checkpoint, weights_of
from ..files.safety import trusting
from ..losses.cka import FEWEST, cka_of_terms, hsic_terms
from ..methods.dpk.method import DPK
from .overrides import override
from .runner import check_files
from .test import evaluate, evaluation_config

SCORE_MARGIN = 0.01
"""Scores are alike if they are within this share of the best."""

GAP_MARGIN = 0.05
"""Mean gaps are alike if they are within this of the smallest."""

RULE = (
    "the rule is ours, not the DPK paper's: the best score; among scores within 1 % of it the "
    'smallest mean gap; among gaps within 0.05 of that the cheapest'
)

Batches = list[Mapping[str, Any]]
Pair = tuple[Teacher, DPK]
T = TypeVar('T')


@dataclass
class Measurement:
    """What was found out about one teacher.

    Attributes:
        name: its name.
        parameters: how many it has.
        seconds: the time for one image to reach the taps that DPK reads.
        gaps: ``1 - CKA`` by stage; NaN where a representation is constant.
        score: the metric on the student's validation data; None if it was not asked for.
    """

    name: str
    parameters: int
    seconds: float
    gaps: dict[str, float]
    score: float | None = None

    @property
    def mean_gap(self) -> float:
        """The mean over the stages; infinite where one is undefined.

        >>> Measurement('a', 10, 0.1, {'P4': 0.25, 'P5': 0.75}).mean_gap
        0.5
        """
        mean = statistics.fmean(self.gaps.values())
        return mean if math.isfinite(mean) else math.inf


@dataclass
class Ranking:
    """All that was measured, and the choice; ``choice`` is None where the rule does not choose.

    Attributes:
        start: where the student was, in words.
        images: training images behind gaps and times, in so many ``batches``.
        metric: the name of the score.
        teachers: one measurement each.
    """

    start: str
    images: int
    batches: int
    metric: str | None
    teachers: list[Measurement]
    choice: str | None = field(init=False)
    reason: str = field(init=False)

    def __post_init__(self) -> None:
        self.choice, self.reason = choose(self.teachers)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; a number that is not finite is None."""
        content = asdict(self)
        for row, measured in zip(content['teachers'], self.teachers):
            numbers = {**measured.gaps, 'mean': measured.mean_gap}
            row['gaps'] = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        return content


def rank_teachers(
    config: str | Path | Config,
    teachers: Sequence[str],
    *,
    student_checkpoint: str | Path | None = None,
    images: int = 64,
    score: bool = True,
    cfg_options: Mapping[str, Any] | None = None,
    trust_checkpoint: bool = False,
    console: Console | None = None,
) -> Ranking:
    """Measure teachers on a student's data and choose one; wrong input is answered before it begins.

    Args:
        config: the student's plain config.
        teachers: ``CONFIG:CHECKPOINT`` each; a zoo config (``mmdet::...``) alone has the zoo's.
        student_checkpoint: the student's weights; without it, where its training would start.
        images: how many training images the gaps and times rest on.
        score: whether to evaluate each teacher on the validation data.
        cfg_options: overrides of the student's config, by dotted key.
        trust_checkpoint: unpickle checkpoints without restriction.
        console: where progress goes.
    """
    if images < FEWEST:
        raise InputError(f'--images {images}: give {FEWEST} or more; the unbiased CKA needs them')
    sources = parse_teachers(teachers)
    cfg = student_config(config, cfg_options, score, trust_checkpoint)
    console, metric = console or Console(stderr=True), None
    with untouched_randomness(), trusting(trust_checkpoint):
        student, start = _build_student(cfg, student_checkpoint, trust_checkpoint)
        pairs = [
            _pair(student, Teacher(*source, trust_checkpoint=trust_checkpoint, name=name), score)
            for name, source in sources.items()
        ]
        batches = training_batches(cfg, images)
        found = [_measure(student, pair, batches, console) for pair in pairs]
        for measured in found if score else []:
            console.print(f'{measured.name}: evaluating')
            metric, measured.score = score_of(cfg, *sources[measured.name], trust_checkpoint)
    shown = sum(len(batch['inputs']) for batch in batches)
    return Ranking(start, shown, len(batches), metric, found)


def choose(measurements: Sequence[Measurement]) -> tuple[str | None, str]:
    """The teacher to take and why, by the rule of this module; no name where there is no choice.

    >>> a = Measurement('a', 10, 0.1, {'P5': 0.3}, score=0.400)
    >>> b = Measurement('b', 10, 0.1, {'P5': 0.2}, score=0.398)
    >>> choose([a, b])[0]
    'b'
    """
    scores = [m.score for m in measurements if m.score is not None]
    if len(scores) < len(measurements):
        return None, 'without a score there is none, because a weak teacher may be near'
    best = max(scores)
    if best <= 0:
        return None, f'the best score is {best:.4g}, so none of these has learnt this task'
    rivals = [m for m, s in zip(measurements, scores) if s >= best - SCORE_MARGIN * best]
    nearest = min(m.mean_gap for m in rivals)
    alike = [m for m in rivals if m.mean_gap <= nearest + GAP_MARGIN]
    pick = min(alike, key=lambda m: (m.seconds, m.parameters))
    return pick.name, f'{_why(pick, len(measurements), len(rivals), len(alike))} ({RULE})'


def _why(pick: Measurement, teachers: int, rivals: int, alike: int) -> str:
    if teachers == 1:
        return f'it is the only one, with a score of {pick.score:.4g}'
    if rivals == 1:
        return f'its score of {pick.score:.4g} is the best by more than 1 %'
    near = f'of the {rivals} teachers whose score is within 1 % of the best'
    if alike == 1:
        return f'{near}, its mean gap of {pick.mean_gap:.3f} is the smallest by over {GAP_MARGIN}'
    which = 'they' if alike == rivals else f'the {alike} nearest'
    cost = f'is the cheapest of them at {pick.seconds * 1e3:.2f} ms an image'
    return f'{near}, {which} have mean gaps within {GAP_MARGIN} of the smallest, and it {cost}'


# -- what is compared ------------------------------------------------------------------------------


def parse_teachers(specs: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Config and checkpoint of each spec by the config's name; by the spec where names are shared.

    >>> parse_teachers(['a/r50.py:x.pth', 'a/r18.py:y.pth'])
    {'r50': ('a/r50.py', 'x.pth'), 'r18': ('a/r18.py', 'y.pth')}
    """
    sources = [parse_teacher(spec) for spec in specs]
    places = [tuple(map(os.path.realpath, source)) for source in sources]
    for spec, place in zip(specs, places):
        if places.count(place) > 1:
            raise InputError(f'--teachers {spec}: given more than once; give it once')
    names = [Path(config).stem for config, _ in sources]
    return dict(zip(names if len(set(names)) == len(names) else specs, sources))


def parse_teacher(spec: str) -> tuple[str, str]:
    """Config and checkpoint of a spec, split at its last colon; ``::`` and URLs stay whole.

    >>> parse_teacher('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py:work/best.pth')
    ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'work/best.pth')
    >>> parse_teacher('r50.py:https://host/r50.pth')
    ('r50.py', 'https://host/r50.pth')
    """
    config, checkpoint = r'(?:\w+::)?[^:](?:.*?[^:])?', r'https?://.+|[^:]+'
    match = re.fullmatch(f'({config})(?::({checkpoint}))?', spec)
    weights = match and match[2]
    if match is not None and weights is None and '::' in spec:
        load_config(spec)  # answers a wrong name
        weights = zoo_checkpoint(spec)
    if match is None or weights is None:
        raise InputError(
            f'--teachers {spec!r}: names no checkpoint; needed: CONFIG:CHECKPOINT (r50.py:r50.pth), or '
            "a config that the zoo has one for ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')"
        )
    return match[1], weights


def student_config(
    config: str | Path | Config,
    cfg_options: Mapping[str, Any] | None = None,
    score: bool = True,
    trust_checkpoint: bool = False,
) -> Config:
    """The student's config with its overrides, its data there."""
    cfg = load_config(config)
    override(cfg, cfg_options)
    if is_distiller(cfg.model):
        raise InputError(f'{cfg.filename}: is a Distiller; give the plain config of its student')
    parts = ('train', 'val') if score else ('train',)
    absent = [part for part in parts if cfg.get(f'{part}_dataloader') is None]
    if absent:
        cure = 'add it, or --no-score' if absent == ['val'] else 'add it'
        raise InputError(f'{absent[0]}_dataloader: missing in {cfg.filename}; {cure}')
    check_files(cfg, parts, trust_checkpoint)
    return cfg


def training_batches(cfg: Config, images: int) -> Batches:
    """Raw batches of the training data loader, about so many images, always the same ones.

    A batch holds as many images as in training, four at least; smaller ones are left out.
    """
    loader = copy.deepcopy(cfg.train_dataloader)
    count = max(1, images // max(loader.get('batch_size') or 1, FEWEST))
    loader.update(batch_size=images // count, drop_last=False)
    loader.update(num_workers=0, persistent_workers=False, prefetch_factor=None)
    batches: Batches = []
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')), untouched_randomness():
        set_random_seed(0)
        for batch in Runner.build_dataloader(loader, seed=0):
            if len(batch['inputs']) >= FEWEST:
                batches.append(batch)
            if len(batches) == count:
                break
    if not batches:
        raise InputError(
            f'train_dataloader: no batch of {FEWEST} images, which the unbiased CKA needs; name a '
            'larger data set with --cfg-options train_dataloader.dataset.data_root=DIR'
        )
    return batches


class Student(Teacher):
    """The student as it is compared: frozen and in eval mode as the teachers are."""

    owner = 'the student'

    def _load(self, config: Any, checkpoint: Any, strict: bool, trust: bool) -> None:
        """Without a checkpoint it is where its training would start."""
        if checkpoint is not None:
            return super()._load(config, checkpoint, strict, trust)
        self.model.init_weights()  # type: ignore[operator]
        if config.get('load_from') is not None:
            load_weights(self.model, weights_of(read_checkpoint(config.load_from, trust)))


def _build_student(cfg: Config, checkpoint: str | Path | None, trust: bool) -> tuple[Student, str]:
    """The student, and in words where it is."""
    set_random_seed(0)
    student = Student(cfg, checkpoint, trust_checkpoint=trust)
    # random resizes and mixtures would show each teacher other batches
    student.model.data_preprocessor.batch_augments = None  # type: ignore[union-attr]
    start = 'its own initialisation, so the gaps are those of the start of training'
    return student, str(checkpoint or cfg.get('load_from') or start)


def _pair(student: Student, teacher: Teacher, score: bool) -> Pair:
    """Set up DPK for the student and a teacher."""
    ours, theirs = (class_count(m.model)[1] for m in (student, teacher))
    if score and ours != theirs:
        raise InputError(
            f'--teachers: {teacher.owner} has {theirs} classes, the student {ours}, so it cannot be '
            "scored on the student's data; take one of the same classes, or --no-score"
        )
    teacher.learn_input(student.model)
    method = DPK(size='light', logits=None if ours == theirs else 0.0)
    try:
        method.plan(student.model, teacher.model)
        student.probe(method.student_taps)
        teacher.probe(method.teacher_taps)
        method.setup(side_of(student), side_of(teacher))
    except InputError as error:
        raise InputError(
            f'--teachers: {teacher.owner}: {error} (options of DPK itself; here its defaults are '
            'compared, so leave this teacher out)'
        ) from error
    return teacher, method


# -- measuring -------------------------------------------------------------------------------------


def _measure(student: Student, pair: Pair, batches: Batches, console: Console) -> Measurement:
    """Gaps and cost; the first batch is shown twice because the first run of a network is slower."""
    device, (teacher, method) = torch.device(get_device()), pair
    teacher.to(device)
    preprocess: Any = student.to(device).model.data_preprocessor
    levels, terms, seconds = method.inject, [], []
    for raw in track([batches[0], *batches], f'{teacher.name}: gaps and cost', console=console):
        data = preprocess(raw, True)
        batch = data['inputs'], data.get('data_samples')
        theirs, elapsed = _timed(device, teacher.observe, *batch, method.teacher_taps)
        ours = student.observe(*batch, method.level_taps[0])
        maps = method.raw_pairs(Step(*batch, 0.0, ours, theirs, {}))
        terms.append(torch.stack([hsic_terms(*maps[level]) for level in levels]))
        seconds.append(elapsed / len(batch[0]))
    gaps = 1 - cka_of_terms(torch.stack(terms[1:]).mean(0).T)
    stages = [method.names[level] for level in levels]
    parameters = sum(p.numel() for p in teacher.cpu().model.parameters())
    cost = statistics.median(seconds[1:])
    return Measurement(teacher.name, parameters, cost, dict(zip(stages, gaps.tolist())))


def _timed(device: torch.device, call: Callable[..., T], *arguments: Any) -> tuple[T, float]:
    wait = torch.cuda.synchronize if device.type == 'cuda' else lambda: None
    wait()
    start = time.perf_counter()
    result = call(*arguments)
    wait()
    return result, time.perf_counter() - start


def score_of(cfg: Config, teacher: str, checkpoint: str, trust: bool = False) -> tuple[str, float]:
    """The metric that ``save_best`` names, or the first, and what the teacher reaches in it."""
    with tempfile.TemporaryDirectory() as work_dir:
        metrics = evaluate(scoring_config(cfg, teacher, checkpoint, work_dir, trust), trust)
    wanted = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('save_best') or []
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    metric = next((name for name in (*names, *metrics) if name in metrics), None)
    if metric is None or not math.isfinite(metrics[metric]):
        raise InputError(
            f'--teachers {teacher}:{checkpoint}: val_evaluator gives no number '
            f'for it ({metrics}); leave it out, or --no-score'
        )
    return metric, float(metrics[metric])


def scoring_config(
    cfg: Config, teacher: str, checkpoint: str, work_dir: str, trust: bool = False
) -> Config:
    """The student's config with the teacher, its own preprocessor included, in the student's place.

    What the student's config does beside evaluating (hooks, pictures, trackers) is left out. The
    experiment has a name of its own: two may begin in one second, and would share their logger.
    """
    plain = copy.deepcopy(cfg)
    plain.pop('data_preprocessor', None)
    plain.pop('custom_hooks', None)
    plain.model = model_config(load_config(teacher))
    plain.test_dataloader, plain.test_evaluator = plain.val_dataloader, plain.val_evaluator
    plain.test_cfg = {}
    plain.visualizer = dict(type='Visualizer', vis_backends=[])
    plain.log_level = 'WARNING'
    plain.experiment_name = Path(work_dir).name
    return evaluation_config(plain, checkpoint, work_dir=work_dir, trust_checkpoint=trust)
