"""The teacher: a frozen network that answers taps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor, nn

from ..collectives import gather_objects, rank
from ..errors import InputError
from ..family.building import build_model, load_config, model_config, zoo_checkpoint
from ..family.outside import OutsideBackbone
from ..family.roi import Rois
from ..family.running import Probe, observe, probe
from ..family.sizes import small_size
from ..family.taps import Features, Tap
from ..files.checkpoints import (
    KeyReport,
    classes_of,
    hash_of,
    load_weights,
    read_checkpoint,
    weights_of,
)
from .cache import LIMIT, Cache, refuse_uncachable_taps
from .forms import EXACT, PRECISIONS, Choice, Form, Precision, Run, fastest
from .options import Checked, Count, Positive
from .repainting import Pixels, Repaint
from .rescaling import Rescale
from .schedules import iterations_left
from .unread import skip_unread

Speed = Literal['auto', 'exact', 'max']
TOLERANCES = {'auto': 0.02, 'max': 0.05}
"""The relative error that no tapped tensor may exceed."""
WORTH = 500
"""For fewer iterations than these nothing is measured."""
SECONDS = 10.0
"""After so long no further form is tried."""
UNTRAINED = 'untrained'
"""In place of a checkpoint: keep the random weights (speed measurements and tests)."""


T = TypeVar('T', bound='Teacher')


class Teacher(Checked, nn.Module):
    """A frozen network that answers taps.

    It is loaded strictly, always wholly in eval mode, run without gradient and no deeper than its
    deepest tap, and sees the student's batch in its own normalisation and channel order.

    Args:
        config: a config file, a ``package::`` name, a Config, or a model config; ``timm::NAME``,
            ``hf::NAME`` or ``hf::FOLDER`` are backbones of those packages.
        checkpoint: its weights; for a ``package::`` name the package's own are the default.
        speed: ``auto`` tries the fast forms below on the first batch of a training of 500 iterations or more
            and takes the fastest whose answers are within 2 % of the plain ones; ``max`` allows 5 % and
            tries compiling too, however short the training; ``exact`` runs the plain network. A form that
            is given by one of the next four options is not measured but taken.
        precision: ``fp32``, ``bf16`` or ``fp16`` (autocast).
        channels_last: run in channels-last memory format.
        fuse: fold BatchNorm into the convolutions before it; convolutions that have one can then not be tapped.
        compile: compile the parts between taps, for the first size of batch that comes.
        inputs: ``own`` repaints the student's batch as the teacher's preprocessor would make it;
            ``student`` hands it over as it is.
        cache: a folder in which answers are kept; images that come again are answered from there, bit for bit.
            For data pipelines that draw nothing at random; others are refused.
        cache_limit: the bytes that may lie in that folder.
        scale: the teacher's pixels for one of the student's: the batch is resized to it, the boxes that a RoI
            head scores with it; levels are compared by their strides in the student's pixels.
        strict: whether missing, unexpected or misshaped keys stop the run or are only reported.
        trust_checkpoint: unpickle the file without restriction.
        name: its name in messages.
    """

    option_owner = 'teacher'

    def __init__(
        self,
        config: str | Path | Config | Mapping[str, Any],
        checkpoint: str | Path | None = None,
        *,
        speed: Speed = 'auto',
        precision: Precision = 'fp32',
        channels_last: bool = False,
        fuse: bool = False,
        compile: bool = False,
        inputs: Literal['own', 'student'] = 'own',
        cache: str | Path | None = None,
        cache_limit: Count = LIMIT,
        scale: Positive = 1.0,
        strict: bool = True,
        trust_checkpoint: bool = False,
        name: str = 'teacher',
    ) -> None:
        super().__init__()
        self.name, self.speed, self.inputs = name, speed, inputs
        self.form = Form(fuse, channels_last, precision, compile)
        self.settled = False
        self.measured = self._answered = False
        self.classes: tuple[str, ...] | None = None
        self.repaint: Repaint | None = None
        self.scale = scale
        self.probed = Probe()
        self.config, self._own_size = _parts(config)
        self.model = build_model(self.config)
        self._refuse_form()
        self._load(config, checkpoint, strict, trust_checkpoint)
        divisor = getattr(getattr(self.model, 'data_preprocessor', None), 'pad_size_divisor', 1)
        self.rescale = None if scale == 1 else Rescale(scale, divisor)
        self.cache: Cache | None = None
        if cache is not None:
            identity = f'{hash_of(self.model)} {self.config!r}'
            self.cache = Cache(cache, cache_limit, identity, self.owner)
        self.requires_grad_(False)
        self.eval()

    @property
    def owner(self) -> str:
        """How messages call it."""
        return 'the teacher' if self.name == 'teacher' else f'teacher {self.name!r}'

    def train(self: T, mode: bool = True) -> T:
        """Stays in eval mode, dropout and drop-path included, whatever is asked."""
        return super().train(False)

    def learn_input(self, student: nn.Module) -> None:
        """Work out how the student's batches become this teacher's."""
        if self.inputs == 'own':
            source = Pixels.of(student.data_preprocessor, 'the student')
            target = Pixels.of(self.model.data_preprocessor, self.owner)
            if isinstance(self.model, OutsideBackbone):
                target = target.in_rgb_of(source)
            self.repaint = Repaint(source, target)

    def probe(self, taps: Iterable[Tap], sizes: Iterable[int | None] = ()) -> Probe:
        """Dry-run to learn the shapes of the taps that will be asked for; see :func:`probe`."""
        taps = list(taps)
        if self.cache is not None:
            refuse_uncachable_taps(self.owner, taps)
        if self.rescale is not None:
            sizes = [self.rescale.size((size, size))[0] for size in sizes if size]
        self.probed = probe(self.model, taps, self.owner, [*sizes, self._own_size])
        return self.probed

    @torch.no_grad()
    def observe(
        self,
        inputs: Tensor,
        samples: Any = None,
        taps: Iterable[Tap] | None = None,
        rois: Rois | None = None,
    ) -> Features:
        """Answer taps (by default all that were probed) for a batch that the student's preprocessor made."""
        asked = list(self.probed.shapes if taps is None else taps)
        images = inputs if self.repaint is None else self.repaint(inputs, samples)
        if self.rescale is not None:
            images, samples, rois = self.rescale(images, samples, rois)

        def run(model: nn.Module, form: Form) -> Features:
            return self._answer(model, form, asked, images, samples, rois)

        if not self.settled:
            if not rois and self._long():
                self._skip_unread(images[:1], samples and samples[:1])
            self._choose(run, images.device.type)
        if self.cache is None:
            return run(self.model, self.form)

        def ask(images: Tensor, samples: Any) -> Features:
            return self._answer(self.model, self.form, asked, images, samples, rois)

        return self.cache.answer(images, samples, asked, self.form, ask)

    @property
    def free(self) -> bool:
        """Whether the form is still to be chosen."""
        return not self.settled and self.speed != 'exact' and self.form == EXACT

    def keep(self, form: Form) -> None:
        """Measure nothing, and take this form when the first batch comes."""
        self.form = form
        if form == EXACT:
            self.take(form)

    def take(self, form: Form) -> None:
        """Run in this form from now on, and measure nothing."""
        self.form, self.settled = form, True
        form.give(self.model, {tap.at for tap in self.probed.shapes})

    def _answer(
        self,
        model: nn.Module,
        form: Form,
        asked: list[Tap],
        images: Tensor,
        samples: Any,
        rois: Rois | None,
    ) -> Features:
        if form.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        counts, lower = self.probed.counts, form.precision != 'fp32'
        half = torch.autocast(images.device.type, PRECISIONS[form.precision], enabled=lower)
        with self._named_size(images), half:
            return observe(
                model,
                asked,
                images,
                samples,
                rois=rois,
                until={tap.place: counts[tap.place] for tap in asked},
                copied=self.probed.overwritten,
                owner=self.owner,
            )

    @contextmanager
    def _named_size(self, images: Tensor) -> Iterator[None]:
        """Where the first batch is no size for the network, say which is."""
        try:
            yield
        except (AssertionError, RuntimeError, ValueError) as failure:
            (height, width), known = images.shape[-2:], self.probed.image
            if self._answered or known in (height, width) or 'memory' in str(failure):
                raise
            factor = self.scale * known / min(height, width)
            raise InputError(
                f'{self.owner} cannot be run on images of {height}x{width} ({type(failure).__name__}: '
                f'{failure}); it can on {known}x{known}: make such images in the pipeline, or '
                f'teacher.scale={factor:.4g}'
            ) from failure
        self._answered = True

    def _choose(self, run: Run, device: str) -> None:
        """Settle the form: what is given, else what the first rank finds to be the fastest."""
        if not self._worth():
            return self.take(self.form)
        choice = self._measured(run, device) if rank() == 0 else None
        told = gather_objects(choice and choice.form)[0]
        if choice is None:
            return self.take(told)
        self.form, self.model, self.settled, self.measured = told, choice.model, True, True
        print_log(f'{self.owner}: speed={self.speed}: {choice}', 'current')

    def _worth(self) -> bool:
        """Whether to look for something faster."""
        return self.free and self._long()

    def _long(self) -> bool:
        """Whether training is long enough, where something faster is wanted."""
        if self.speed == 'exact':
            return False
        return self.speed == 'max' or iterations_left() >= WORTH

    def _skip_unread(self, images: Tensor, samples: Any) -> None:
        """Of all taps, those included that no method reads yet."""
        taps = list(self.probed.shapes)

        def run() -> list[Tensor]:
            found = self._answer(self.model, EXACT, taps, images, samples, None)
            return [tensor for tap in taps for tensor in found[tap]]

        try:
            skipped = skip_unread(self.model, run)
        except Exception as failure:  # a network that cannot be run on a single image runs wholly
            print_log(f'{self.owner} runs wholly: {type(failure).__name__}: {failure}', 'current')
            return
        if skipped:
            print_log(
                f'{self.owner}: {len(skipped)} layers are not run: no tap depends on them',
                'current',
            )

    def _measured(self, run: Run, device: str) -> Choice:
        return fastest(
            self.model,
            run,
            {tap.at for tap in self.probed.shapes},
            device=device,
            tolerance=TOLERANCES[self.speed],
            seconds=SECONDS,
            passes=math.inf if self.speed == 'max' else iterations_left(),
        )

    def summary(self) -> str:
        """One line: name, architecture, size, form.

        A user who asks how much memory the teacher takes finds it in the log.
        """
        numbers = [p.numel() for p in self.model.parameters()]
        size = sum(p.numel() * p.element_size() for p in self.model.parameters()) / 2**20
        kind = getattr(self.model, 'label', '') or type(self.model).__name__
        how = f'speed={self.speed}' if self.form == EXACT else str(self.form)
        return f'{self.owner}: {kind}, {sum(numbers) / 1e6:.2f} M parameters, {size:.0f} MiB, {how}'

    def _load(self, config: Any, checkpoint: Any, strict: bool, trust: bool) -> None:
        source = checkpoint or zoo_checkpoint(config)
        outside = self.model if isinstance(self.model, OutsideBackbone) else None
        if source is None and outside is not None:
            report = KeyReport(missing=outside.load_own())
            report.loaded = len(self.model.state_dict()) - len(report.missing)
            self._judge(report, str(outside.label), strict)
            return
        if source is None:
            raise InputError(
                f'{self.owner}: checkpoint is missing; give --teacher-checkpoint FILE '
                f"(in a config: teacher=dict(config=..., checkpoint='FILE'))"
            )
        if str(source) == UNTRAINED:
            print_log(f'{self.owner} keeps its random weights', 'current', 30)
            fill_unset(self.model)
            return
        content = read_checkpoint(source, trust=trust)
        self.classes = classes_of(content)
        weights: Mapping[str, Tensor] = weights_of(content)
        if outside is not None:
            weights = outside.translated(weights)
        self._judge(load_weights(self.model, weights), str(source), strict)

    def _judge(self, report: KeyReport, source: str, strict: bool) -> None:
        optional = getattr(self.model, 'optional', ())
        report.missing = [k for k in report.missing if not any(part in k for part in optional)]
        if report.clean:
            print_log(f'{self.owner}: {source}: {report}', 'current')
            return
        if strict or not report.loaded:
            hint = (
                'this is the checkpoint of another architecture; give the config it was trained with'
                if report.loaded * 2 < len(self.model.state_dict())
                else 'give the config it was trained with, or strict=False for this teacher'
            )
            raise InputError(f'{self.owner}: checkpoint {source}: {report}; {hint}')
        print_log(f'{self.owner}: {source}: {report}', 'current', 30)

    def _refuse_form(self) -> None:
        if self.form != EXACT and self.speed != 'auto':
            raise InputError(
                f'{self.owner}: speed={self.speed!r} beside a form that is given ({self.form}); leave one out'
            )
        if self.form.fuse and isinstance(self.model, OutsideBackbone):
            raise InputError(
                f'{self.owner}: fuse=True: BatchNorms of {self.model.label} may hold activations; leave it out'
            )


@torch.no_grad()
def fill_unset(model: nn.Module) -> None:
    """Draw the parameters that a model leaves unset at construction (a DETR's level embedding).

    They hold whatever the memory held; NaN and huge values are what tells them.

    >>> layer = nn.Linear(1, 1)
    >>> _ = nn.init.constant_(layer.weight, float('nan'))
    >>> fill_unset(layer)
    >>> bool(layer.weight.isfinite())
    True
    """
    for parameter in model.parameters():
        if not (parameter.abs() < 1e3).all():
            nn.init.normal_(parameter)


def _parts(config: Any) -> tuple[Any, int | None]:
    """The model of a config, and the size of its images where deep maps of it tell their strides."""
    if isinstance(config, Mapping) and 'type' in config:
        return config, None
    whole = isinstance(config, Mapping) and not isinstance(config, Config)
    cfg = config if whole else load_config(config)
    size = small_size(cfg)
    return model_config(cfg), size if size and size % 64 == 0 else None
