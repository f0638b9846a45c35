"""What a self-teacher is: a pyramid that refines the student's features, and heads of its own on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configs import build_model
from ..drive import Rois, observe
from ..taps import Features, Tap, capture
from .bifpn import BiFPN

OWNER = 'the self-teacher'
NOT_HEADS = ('backbone', 'neck', 'data_preprocessor')


class Answer(NamedTuple):
    """What a self-teacher gives: refined maps, its own losses, and its logits without gradient."""

    maps: tuple[Tensor, ...]
    losses: dict[str, Tensor]
    logits: Features


class ClassifierTeacher(nn.Module):
    """A pyramid with a linear classifier on the mean of its deepest map.

    Args:
        pyramid: refines the student's stages.
        classes: how many.
        tap: where the student's logits are; the self-teacher's are given there too.

    >>> from types import SimpleNamespace
    >>> teacher = ClassifierTeacher(BiFPN([4, 8]), 3, Tap('head'))
    >>> maps = [torch.rand(2, 4, 4, 4), torch.rand(2, 8, 2, 2)]
    >>> class Sample(dict):
    ...     gt_label = torch.tensor([1])
    >>> list(teacher(maps, [Sample(), Sample()]).losses)
    ['loss_ce']
    """

    def __init__(self, pyramid: BiFPN, classes: int, tap: Tap) -> None:
        super().__init__()
        self.pyramid, self.tap = pyramid, tap
        self.fc = nn.Linear(pyramid.out_channels[-1], classes)

    def forward(self, maps: Sequence[Tensor], samples: Any, rois: Rois | None = None) -> Answer:
        """Refine the maps and classify."""
        refined = self.pyramid(maps)
        logits = self.fc(refined[-1].mean((2, 3)))
        answers = Features(OWNER)
        answers.add(self.tap.place, logits.detach())
        return Answer(refined, {'loss_ce': F.cross_entropy(logits, targets(samples))}, answers)


class HeadsTeacher(nn.Module):
    """A pyramid under a second set of the student's own heads: same config, other weights.

    Args:
        pyramid: refines the maps that the student's heads read, keeping their channels.
        config: the student's model config.
        taps: where the student's class logits are.
    """

    def __init__(self, pyramid: BiFPN, config: Mapping[str, Any], taps: Sequence[Tap]) -> None:
        super().__init__()
        self.pyramid, self.taps = pyramid, list(taps)
        self.heads = heads_of(config)

    def forward(self, maps: Sequence[Tensor], samples: Any, rois: Rois | None = None) -> Answer:
        """Refine the maps and run the heads' losses; RoI logits are those of the student's boxes."""
        refined = self.pyramid(maps)
        with capture(self.heads, {tap.place for tap in self.taps}, owner=OWNER) as logits:
            losses = self.heads.loss(refined, samples)
        if rois:
            with torch.no_grad():
                logits = observe(self.heads, self.taps, refined, rois=rois, owner=OWNER)
        return Answer(refined, named(losses), detached(logits, self.taps))


def heads_of(config: Mapping[str, Any]) -> Any:
    """A fresh model of a config without its backbone and neck: it takes features in place of images.

    Its own loss then runs its heads as it always does, with their training settings, whatever the
    toolbox and the kind of head.
    """
    model: Any = build_model(config)
    for name in NOT_HEADS:
        if name in model._modules:
            del model._modules[name]
    model.extract_feat = _as_given
    for part in model.children():
        if hasattr(part, 'init_weights'):
            part.init_weights()
    return model


def targets(samples: Sequence[Any]) -> Tensor:
    """The labels that a classifier's head is given: soft ones where the batch was mixed."""
    if 'gt_score' in samples[0]:
        return torch.stack([sample.gt_score for sample in samples])
    return torch.cat([sample.gt_label for sample in samples])


def named(losses: Mapping[str, Any]) -> dict[str, Tensor]:
    """A model's losses, each as one number; the names of those that are trained start with ``loss``.

    >>> one = torch.ones(())
    >>> named({'loss_cls': [one, one], 'decode.loss_ce': one, 'acc': one})
    {'loss_cls': tensor(2.), 'loss_decode.ce': tensor(1.), 'acc': tensor(1.)}
    """
    return {_name(name): _total(value) for name, value in losses.items()}


def detached(features: Features, taps: Iterable[Tap]) -> Features:
    """What passed at some taps, without gradient.

    >>> features = Features()
    >>> features.add(('head', 'output'), (torch.ones(1, requires_grad=True), [torch.ones(2)]))
    >>> [t.requires_grad for t in detached(features, [Tap('head')])[Tap('head')]]
    [False, False]
    """
    fixed = Features(features.owner)
    for tap in {tap.place: tap for tap in taps}.values():
        for call in features.calls(tap):
            fixed.add(tap.place, _detach(call))
    return fixed


def _as_given(features: Any) -> Any:
    return features


def _name(name: str) -> str:
    if 'loss' not in name or name.startswith('loss'):
        return name
    return 'loss_' + name.replace('loss_', '')


def _total(value: Any) -> Tensor:
    values = value if isinstance(value, (list, tuple)) else [value]
    return torch.stack([v.mean() for v in values]).sum()


def _detach(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_detach(item) for item in value)
    return value.detach() if isinstance(value, Tensor) else value
