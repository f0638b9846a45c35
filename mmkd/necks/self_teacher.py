"""What a self-teacher is: a pyramid that refines the student's features, and heads of its own on it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..family.building import build_model
from ..family.roi import Rois
from ..family.running import observe
from ..family.taps import Features, Tap, capture
from .bifpn import BiFPN

OWNER = 'the self-teacher'
NOT_HEADS = ('backbone', 'neck', 'data_preprocessor')


class Answer(NamedTuple):
    """What a self-teacher gives: refined maps, its own losses, and its heads' answers without gradient."""

    maps: tuple[Tensor, ...]
    losses: dict[str, Tensor]
    answers: Features


ROTATIONS = 4
"""By 0, 90, 180 and 270 degrees."""


class ClassifierTeacher(nn.Module):
    """A pyramid with a linear classifier on the mean of its deepest map.

    With ``rotations`` it sees every image four times (:func:`rotated`) and tells classes and
    rotations apart: output ``4 y + k`` is class y turned k times. The logits that it answers are
    :func:`aggregated` to classes.

    Args:
        pyramid: refines the student's stages.
        classes: how many.
        tap: where the student's logits are; the self-teacher's are given there too.
        rotations: whether its labels are joint ones of class and rotation.
        vectors: how many vectors of logits the student gives there (a Conformer two); each is taught.

    >>> from types import SimpleNamespace
    >>> teacher = ClassifierTeacher(BiFPN([4, 8]), 3, Tap('head'))
    >>> maps = [torch.rand(2, 4, 4, 4), torch.rand(2, 8, 2, 2)]
    >>> class Sample(dict):
    ...     gt_label = torch.tensor([1])
    >>> list(teacher(maps, [Sample(), Sample()]).losses)
    ['loss_ce']
    """

    def __init__(
        self, pyramid: BiFPN, classes: int, tap: Tap, rotations: bool = False, vectors: int = 1
    ) -> None:
        super().__init__()
        self.pyramid, self.tap, self.rotations, self.vectors = pyramid, tap, rotations, vectors
        self.fc = nn.Linear(pyramid.out_channels[-1], classes * (ROTATIONS if rotations else 1))

    def forward(self, maps: Sequence[Tensor], samples: Any, rois: Rois | None = None) -> Answer:
        """Refine the maps and classify."""
        refined = self.pyramid(maps)
        logits, labels = self.fc(refined[-1].mean((2, 3))), targets(samples)
        if self.rotations:
            labels = joint_labels(labels)
        losses = {'loss_ce': F.cross_entropy(logits, labels)}
        logits = logits.detach()
        answers = Features(OWNER)
        logits = aggregated(logits) if self.rotations else logits
        answers.add(self.tap.place, [logits] * self.vectors)
        return Answer(refined, losses, answers)


class HeadsTeacher(nn.Module):
    """A pyramid under a second set of the student's heads (:func:`heads_of`), or its own (:func:`lent_heads`).

    Lent heads stay the student's: they are no part of the self-teacher's parameters, and the running
    statistics of their norms stay those of the student's maps.

    Args:
        pyramid: refines the maps that the student's heads read, keeping their channels.
        heads: a model without backbone and neck.
        taps: where the student's answers are.
        lent: whether the heads are the student's own.
    """

    heads: Any

    def __init__(
        self, pyramid: BiFPN, heads: nn.Module, taps: Sequence[Tap], lent: bool = False
    ) -> None:
        super().__init__()
        self.pyramid, self.taps, self.lent = pyramid, list(taps), lent
        # operators of mmcv, some of which read memory row by row; on CPUs a pyramid gives channels last
        self.contiguous = any(type(m).__module__.startswith('mmcv.ops') for m in heads.modules())
        if lent:
            vars(self)['heads'] = (
                heads  # past torch's registration: no second owner of their weights
            )
        else:
            self.heads = heads

    def forward(self, maps: Sequence[Tensor], samples: Any, rois: Rois | None = None) -> Answer:
        """Refine the maps and run the heads' losses; RoI logits are those of the student's boxes."""
        refined = self.pyramid(maps)
        if self.contiguous:
            refined = tuple(feature.contiguous() for feature in refined)
        if not self.lent:
            return self._answer(refined, samples, rois)
        self.heads.training = self.training
        with kept_buffers(self.heads):
            return self._answer(refined, samples, rois)

    def _answer(self, refined: Any, samples: Any, rois: Rois | None) -> Answer:
        with capture(self.heads, {tap.place for tap in self.taps}, owner=OWNER) as answers:
            losses = self.heads.loss(refined, samples)
        if rois:
            with torch.no_grad():
                answers = observe(self.heads, self.taps, refined, rois=rois, owner=OWNER)
        return Answer(refined, named(losses), detached(answers, self.taps))


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
    model.init_cfg = None  # weights of the whole student
    model.init_weights()
    return model


def lent_heads(student: nn.Module) -> Any:
    """A student without its backbone and neck, on the same weights: it takes features in place of images."""
    view: Any = copy.copy(student)
    kept = {name: part for name, part in student._modules.items() if name not in NOT_HEADS}
    vars(view).update(_modules=kept, extract_feat=_as_given)
    return view


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Let a model write to copies of its buffers, such as the statistics of its norms, and keep its own.

    >>> norm = nn.BatchNorm1d(1)
    >>> with kept_buffers(norm):
    ...     _ = norm(torch.tensor([[2.0], [4.0]]))
    >>> norm.running_mean
    tensor([0.])
    """
    own = [(part, dict(part._buffers)) for part in model.modules()]
    for part, buffers in own:
        part._buffers.update({n: b if b is None else b.clone() for n, b in buffers.items()})
    try:
        yield
    finally:
        for part, buffers in own:  # not copied back: autograd has seen both
            part._buffers.update(buffers)


def targets(samples: Sequence[Any]) -> Tensor:
    """The labels that a classifier's head is given: soft ones where the batch was mixed."""
    if 'gt_score' in samples[0]:
        return torch.stack([sample.gt_score for sample in samples])
    return torch.cat([sample.gt_label for sample in samples])


def rotated(images: Tensor) -> Tensor:
    """The other three rotations of square images [B, ...], one after the other: [3 B, ...]."""
    return torch.cat([images.rot90(k, (2, 3)) for k in range(1, ROTATIONS)])


def joint_labels(labels: Tensor) -> Tensor:
    """Labels of a batch and of its rotations behind it: ``4 y + k``, or soft rows [4 B, 4 K].

    >>> joint_labels(torch.tensor([2, 0]))
    tensor([ 8,  0,  9,  1, 10,  2, 11,  3])
    """
    if not labels.is_floating_point():
        return torch.cat([ROTATIONS * labels + k for k in range(ROTATIONS)])
    turned = F.one_hot(torch.arange(ROTATIONS, device=labels.device)).to(labels)
    return torch.einsum('by,kr->kbyr', labels, turned).reshape(-1, ROTATIONS * labels.shape[1])


def aggregated(logits: Tensor) -> Tensor:
    """Joint logits [4 B, 4 K] as logits of the images [B, K]: the mean over the four rotations.

    >>> aggregated(torch.eye(4) * torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    tensor([[2.5000]])
    """
    views = logits.unflatten(1, (-1, ROTATIONS)).unflatten(0, (ROTATIONS, -1))
    return views.diagonal(dim1=0, dim2=3).mean(-1)


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
