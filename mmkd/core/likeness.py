"""What the heads of two models must share for their answers to be compared."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import InputError
from ..family.heads import head_kind, is_sigmoid, logit_head
from ..family.taps import Tap
from .levels import levels_of
from .step import Side

INSTEAD = 'a feature method (pkd, cwd, fitnet) fits this pair'


def refuse_other_kinds(method: str, student: nn.Module, teacher: nn.Module) -> None:
    """Stop if class logits are laid out differently, or if the teacher has none."""
    logit_head(teacher)
    kinds = head_kind(student), head_kind(teacher)
    if kinds[0] != kinds[1]:
        raise InputError(
            f"{method}: the student's class logits are of kind {kinds[0]!r}, the teacher's of kind "
            f'{kinds[1]!r}; {INSTEAD}'
        )


def refuse_other_heads(method: str, model: nn.Module, kind: str, owner: str) -> None:
    """Stop if a method is for one kind of head and a model has another."""
    if head_kind(model) != kind:
        raise InputError(
            f'{method} is for {KINDS[kind]}, {owner} ({type(model).__name__}) has '
            f'{KINDS[head_kind(model)]}; for every head: kd, pkd, cwd, fitnet'
        )


KINDS = {
    'vector': 'the logits of a classifier',
    'pixel': 'the logits of a segmentor',
    'roi': 'a RoI head',
    'dense': 'a dense head',
    'query': 'a head of queries',
}
"""Kinds of heads, in words."""


def refuse_other_classes(method: str, student: Side, teacher: Side) -> None:
    """Stop if heads have other classes, or if they are independent on one side only."""
    head, guide = logit_head(student.model), logit_head(teacher.model)
    if is_sigmoid(head) != is_sigmoid(guide):
        names = ['sigmoid' if is_sigmoid(h) else 'softmax' for h in (head, guide)]
        raise InputError(
            f'{method}: {student.owner} has a {names[0]} head, {teacher.owner} a {names[1]} head; '
            'their logits do not compare. A feature method (pkd, cwd, fitnet) fits this pair'
        )
    counts = [getattr(h, 'num_classes', None) for h in (head, guide)]
    if None not in counts and counts[0] != counts[1]:
        raise InputError(
            f'{method}: class count mismatch: {student.owner} has {counts[0]} classes, {teacher.owner}'
            f' {counts[1]}. Take a teacher of the same classes, or a feature method (pkd, cwd)'
        )


def refuse_other_shapes(
    method: str, student: Side, teacher: Side, taps: tuple[list[Tap], list[Tap]], alike: bool = True
) -> None:
    """Stop if answers come in other numbers of levels, or (``alike``) in other shapes."""
    ours, theirs = levels_of(student, taps[0]), levels_of(teacher, taps[1])
    if len(ours) != len(theirs):
        raise InputError(
            f'{method}: {student.owner} gives {len(ours)} levels of logits, {teacher.owner} '
            f'{len(theirs)}; choose pairs with tap=dict(at=..., levels=[...])'
        )
    for (what, shape), (_, target) in zip(ours, theirs):
        if alike and shape != target:
            raise InputError(
                f'{method}: {what}: {student.owner} {tuple(shape)} against {teacher.owner} '
                f'{tuple(target)}; logits need the same classes, anchors and strides'
            )


def refuse_mixed(method: str, student: Side, taps: list[Tap]) -> None:
    """Stop if a head gives no maps of class scores alone: YOLOv3's hold boxes, MaskFormer's are masks."""
    head: Any = logit_head(student.model)
    kind = head_kind(student.model)
    if kind not in ('dense', 'pixel') or hasattr(head, 'cls_out_channels'):
        return
    classes = getattr(head, 'out_channels' if kind == 'pixel' else 'num_classes', None)
    for what, shape in levels_of(student, taps):
        if len(shape) != 4 or shape[1] != classes:
            raise InputError(
                f'{method}: {what}: {type(head).__name__} of {student.owner} gives {tuple(shape)}, no map of '
                f'scores for {classes} classes alone; {INSTEAD}'
            )


def refuse_softmax(method: str, student: nn.Module) -> None:
    """Stop if classes are exclusive, of which a method asks one by one."""
    head = logit_head(student)
    if not is_sigmoid(head):
        raise InputError(
            f'{method} is for sigmoid classes, {type(head).__name__} of the student has softmax ones; '
            'for both: kd, pkd, cwd'
        )


def refuse_sigmoid(method: str, student: nn.Module) -> None:
    """Stop if classes are independent, where a method takes them as one distribution."""
    head = logit_head(student)
    if is_sigmoid(head):
        raise InputError(
            f'{method} is for softmax classes, {type(head).__name__} of the student has sigmoid ones; '
            'for both: kd, pkd, cwd'
        )


def refuse_boxes(method: str, boxes: float, student: nn.Module) -> None:
    """Stop if boxes are weighed that do not compare."""
    raise InputError(
        f'{method}: boxes={boxes!r}; the boxes of {type(logit_head(student)).__name__} are not compared, only '
        'those of dense heads with bins or a plain box coder; leave it out'
    )


def refuse_unlike_heads(student: Any, teacher: Any) -> None:
    """Stop if the logits of two classifiers do not compare."""
    counts = [getattr(getattr(m, 'head', None), 'num_classes', None) for m in (student, teacher)]
    if None in counts or counts[0] != counts[1]:
        raise InputError(
            f'DPK: logits: the student has {counts[0]} classes, the teacher {counts[1]} (None: no '
            'head with classes); take a teacher of the same classes, or logits=0'
        )
