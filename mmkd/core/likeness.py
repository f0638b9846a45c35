"""What the heads of two models must share for their answers to be compared."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import InputError
from ..family.heads import class_count, head_kind, is_sigmoid, logit_head
from ..family.masks import has_roi_masks
from ..family.stages import task_of
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
    method: str,
    student: Side,
    teacher: Side,
    taps: tuple[list[Tap], list[Tap]],
    alike: bool = True,
    sizes: bool = True,
) -> None:
    """Stop if answers come in other numbers of levels or (``alike``) shapes (``sizes``: of maps, too)."""
    ours, theirs = levels_of(student, taps[0]), levels_of(teacher, taps[1])
    if len(ours) != len(theirs):
        raise InputError(
            f'{method}: {student.owner} gives {len(ours)} levels of logits, {teacher.owner} '
            f'{len(theirs)}; choose pairs with tap=dict(at=..., levels=[...])'
        )
    for (what, shape), (_, target) in zip(ours, theirs):
        if alike and (shape != target if sizes else shape[:2] != target[:2]):
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


def refuse_scale(method: str, teacher: Side | None) -> None:
    """Stop if a method compares place by place what a teacher of another resolution has elsewhere."""
    if teacher is not None and teacher.scale != 1:
        raise InputError(
            f'{method} compares answers place by place, and {teacher.owner} gives them for other places with '
            f'scale={teacher.scale:g}; kd and the feature methods (pkd, cwd, fitnet) take it'
        )


def refuse_masks(method: str, student: nn.Module, teacher: nn.Module) -> None:
    """Stop if masks are asked for and are not compared."""
    lacking, owner = (
        (student, 'the student') if not has_roi_masks(student) else (teacher, 'the teacher')
    )
    raise InputError(
        f'{method}: masks=True: {owner} ({type(lacking).__name__}) has no FCN mask head on boxes of its '
        'own; masks that are made otherwise (by filters of each object, CondInst, SOLOv2, RTMDet-Ins; by '
        'queries; on features shared with the box head) are not compared: leave it out'
    )


def refuse_unlike_heads(student: Any, teacher: Any) -> None:
    """Stop if the logits of two classifiers do not compare."""
    counts = [getattr(getattr(m, 'head', None), 'num_classes', None) for m in (student, teacher)]
    if None in counts or counts[0] != counts[1]:
        raise InputError(
            f'DPK: logits: the student has {counts[0]} classes, the teacher {counts[1]} (None: no '
            'head with classes); take a teacher of the same classes, or logits=0'
        )


def class_difference(
    student: nn.Module, teacher: nn.Module, ours: tuple[str, ...], theirs: tuple[str, ...]
) -> str | None:
    """What a teacher has other classes than the training data, in words; None if it has the same.

    Args:
        student: its head tells how many classes there are where nothing names them.
        teacher: likewise; of a teacher of another task nothing is said.
        ours: the names of the training data; none if it has none.
        theirs: the names in the teacher's checkpoint; likewise.
    """
    if task_of(student) != task_of(teacher) or (ours and ours == theirs):
        return None
    counts = [
        len(names) or class_count(model)[1] for names, model in ((theirs, teacher), (ours, student))
    ]
    changed = [f'{i}: {t!r} -> {o!r}' for i, (t, o) in enumerate(zip(theirs, ours)) if t != o]
    if None in counts or (counts[0] == counts[1] and not changed):
        return None
    names = f'; differing names (teacher -> data): {", ".join(changed[:5])}' if changed else ''
    return (
        f'was trained on {counts[0]} classes, the training data has {counts[1]}{names}. Features can be '
        'compared nevertheless; for scores (kd, dist, dkd) take a teacher of the same classes'
    )


def refuse_without_embedding(method: str, side: Side, taps: list[Tap]) -> None:
    """Stop if no vector or map for each image passes at some taps."""
    shapes = [tuple(shape) for _, shape in levels_of(side, taps)]
    if not shapes or len(shapes[-1]) not in (2, 4):
        raise InputError(
            f'{method}: {side.owner} gives {shapes} at {[tap.at for tap in taps]}; needed: a vector '
            '[B, C] or a map [B, C, H, W] for each image: choose one with tap=... '
            '(tools/list_taps.py CONFIG)'
        )
