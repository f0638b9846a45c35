"""The teacher: a frozen network that answers taps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor, nn

from ..errors import InputError
from ..family.building import build_model, load_config, model_config, zoo_checkpoint
from ..family.outside import OutsideBackbone
from ..family.roi import Rois
from ..family.running import Probe, observe, probe
from ..family.taps import Features, Tap
from ..files.checkpoints import KeyReport, classes_of, load_weights, read_checkpoint, weights_of
from .options import Checked
from .repainting import Pixels, Repaint

Precision = Literal['fp32', 'bf16', 'fp16']
PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
"""Number formats by the names that options have for them."""
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
        precision: ``fp32``, ``bf16`` or ``fp16`` (autocast).
        channels_last: run in channels-last memory format.
        fuse: fold BatchNorm into the convolutions before it; BatchNorms can then not be tapped.
        compile: compile the top-level parts (backbone, neck, ...) that are run.
        inputs: ``own`` repaints the student's batch as the teacher's preprocessor would make it;
            ``student`` hands it over as it is.
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
        precision: Precision = 'fp32',
        channels_last: bool = False,
        fuse: bool = False,
        compile: bool = False,
        inputs: Literal['own', 'student'] = 'own',
        strict: bool = True,
        trust_checkpoint: bool = False,
        name: str = 'teacher',
    ) -> None:
        super().__init__()
        self.name, self.compiled = name, compile
        self.precision, self.channels_last, self.inputs = precision, channels_last, inputs
        self.classes: tuple[str, ...] | None = None
        self.repaint: Repaint | None = None
        self.probed = Probe()
        self.config = _model_part(config)
        self.model = build_model(self.config)
        self._load(config, checkpoint, strict, trust_checkpoint)
        self._prepare(fuse, compile)

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
        self.probed = probe(self.model, taps, self.owner, sizes)
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
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        counts = self.probed.counts
        with torch.autocast(
            images.device.type, PRECISIONS[self.precision], enabled=self.precision != 'fp32'
        ):
            return observe(
                self.model,
                asked,
                images,
                samples,
                rois=rois,
                until={tap.place: counts[tap.place] for tap in asked},
                copied=self.probed.overwritten,
                owner=self.owner,
            )

    def summary(self) -> str:
        """One line: name, architecture, size, precision.

        A user who asks how much memory the teacher takes finds it in the log.
        """
        numbers = [p.numel() for p in self.model.parameters()]
        size = sum(p.numel() * p.element_size() for p in self.model.parameters()) / 2**20
        kind = getattr(self.model, 'label', '') or type(self.model).__name__
        return f'{self.owner}: {kind}, {sum(numbers) / 1e6:.2f} M parameters, {size:.0f} MiB, {self.precision}'

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

    def _prepare(self, fuse: bool, compile: bool) -> None:
        self.requires_grad_(False)
        self.eval()
        if fuse and isinstance(self.model, OutsideBackbone):
            raise InputError(
                f'{self.owner}: fuse=True: BatchNorms of {self.model.label} may hold activations; leave it out'
            )
        if fuse:
            from mmcv.cnn import fuse_conv_bn

            fuse_conv_bn(self.model)
        if self.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compile:
            for part in self.model.children():
                part.forward = torch.compile(part.forward)


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


def _model_part(config: Any) -> Any:
    if isinstance(config, Mapping) and 'type' in config:
        return config
    if isinstance(config, Mapping) and not isinstance(config, Config):
        return model_config(config)
    return model_config(load_config(config))
