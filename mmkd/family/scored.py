"""A detector's own loss, in which an object counts as much as its score says.

A score weighs at the places that are assigned to the object: the gradient of all that a dense head says at an
anchor or point, or a RoI head of a box, is multiplied by it. That is what a weight in each term of the loss
would do to it, whichever terms a head has; the losses that are logged stay as they are. Places of the
background, and objects without scores, count 1. Normalisers (the number of objects) stay.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .heads import definer

WITHOUT = 'PseudoCoco: weight_by_score=False leaves scores out, for every head'


def weigh_by_scores(model: nn.Module) -> ExitStack:
    """Weigh a detector's loss from now on; closing what is returned ends it."""
    stack = ExitStack()
    heads = [getattr(model, name, None) for name in ('rpn_head', 'bbox_head', 'mask_head')]
    for head in (head for head in heads if head is not None):
        _refuse_undense(head)
        _weigh_dense(head, stack)
    if (roi := getattr(model, 'roi_head', None)) is not None:
        for sampler in _many(roi.bbox_sampler):
            _replace(stack, sampler, 'sample', _remembering(sampler.sample))
        boxes, masks = _many(roi.bbox_head), _many(getattr(roi, 'mask_head', None))
        for part, kind, names in (
            (boxes, 'BBoxHead', ('cls_score', 'bbox_pred')),
            (masks, 'FCNMaskHead', ('mask_preds',)),
        ):
            for head in part:
                _refuse_unknown_rows(head, kind)
                wrapped = _weighing_rows(head.loss_and_target, names)
                _replace(stack, head, 'loss_and_target', wrapped)
    return stack


# -- dense heads -----------------------------------------------------------------------------------


def _weigh_dense(head: Any, stack: ExitStack) -> None:
    plain, sampler = head.loss_by_feat, head.sampler
    signature = inspect.signature(plain)
    found: list[Any] = []
    labels: list[Tensor] = []
    _replace(stack, sampler, 'sample', _remembering(sampler.sample, found))
    single = head._get_targets_single
    _replace(stack, head, '_get_targets_single', _remembering_labels(single, labels))

    def loss_by_feat(*args: Any, **kwargs: Any) -> Any:
        found.clear()
        labels.clear()
        bound = signature.bind(*args, **kwargs)
        instances = bound.arguments['batch_gt_instances']
        if not any('scores' in one for one in instances):
            return plain(*args, **kwargs)
        weights: list[Tensor] = []  # of each level, when the loss has assigned

        for name, value in bound.arguments.items():
            if _are_maps(value):
                bound.arguments[name] = [_hooked(m, weights, i) for i, m in enumerate(value)]
                sizes = [m.shape[-2:].numel() for m in value]
        losses = plain(*bound.args, **bound.kwargs)
        anchors = head.prior_generator.num_base_priors
        counts = [size * number for size, number in zip(sizes, anchors)]
        rows = _rows_of_images(head, found, labels, len(instances), sum(counts))
        weights.extend(rows.split(counts, 1))
        return losses

    _replace(stack, head, 'loss_by_feat', loss_by_feat)


def _hooked(level: Tensor, weights: list[Tensor], index: int) -> Tensor:
    """A level of a head's answers, whose gradient is weighed place by place."""
    if not level.requires_grad:
        return level
    own = level.view_as(level)

    def weigh(gradient: Tensor) -> Tensor:
        images, channels, height, width = gradient.shape
        places = weights[index].to(gradient).view(images, height, width, -1).permute(0, 3, 1, 2)
        by_anchor = gradient.unflatten(1, (places.shape[1], channels // places.shape[1]))
        return (by_anchor * places[:, :, None]).flatten(1, 2)

    own.register_hook(weigh)
    return own


def _rows_of_images(
    head: Any, found: list[Any], labels: list[Any], images: int, count: int
) -> Tensor:
    """The weight of each anchor or point of each image: [images, count]."""
    told = labels or [None] * images
    if not len(found) == len(told) == images or any(
        label is None and result.assigned != count for label, result in zip(told, found)
    ):
        raise InputError(
            f'WeighByScore: {type(head).__name__} does not assign objects to its anchors or points once for '
            f'each image, and where a score weighs is not known; {WITHOUT}'
        )
    weights = torch.ones(images, count, device=found[0].pos_gt_scores.device)
    for row, result, own in zip(weights, found, told):
        if result.assigned == count:
            row[result.pos_inds] = result.pos_gt_scores
        else:  # anchors outside of the image had been left out
            row[((own >= 0) & (own < head.num_classes)).nonzero().flatten()] = result.pos_gt_scores
    return weights


def _remembering_labels(single: Callable[..., Any], labels: list[Tensor]) -> Callable[..., Any]:
    """A head's targets of one image; of what it gives the labels are kept."""

    def targets(*args: Any, **kwargs: Any) -> Any:
        given = single(*args, **kwargs)
        whole = [v for v in given if isinstance(v, Tensor) and v.dtype == torch.long]
        labels.extend([v for v in whole if v.dim() == 1][:1])
        return given

    return targets


def _are_maps(value: Any) -> bool:
    many = isinstance(value, (list, tuple)) and len(value) > 0
    return many and all(isinstance(level, Tensor) and level.dim() == 4 for level in value)


def _refuse_undense(head: Any) -> None:
    needed = ('sampler', 'prior_generator', 'loss_by_feat', '_get_targets_single')
    if not all(hasattr(head, name) for name in needed):
        raise InputError(
            f'WeighByScore: {type(head).__name__} assigns objects in a way of its own (no sampler of anchors '
            f'or points), and where a score weighs is not known; {WITHOUT}'
        )


# -- RoI heads -------------------------------------------------------------------------------------


def _weighing_rows(plain: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    """A RoI head's loss with the gradient of each box's row weighed; masks have rows of objects only."""
    signature = inspect.signature(plain)

    def loss_and_target(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        results = bound.arguments['sampling_results']
        if not any(result.scored for result in results):
            return plain(*args, **kwargs)
        weights = [
            part
            for result in results
            for part in (
                result.pos_gt_scores,
                result.pos_gt_scores.new_ones(result.neg_inds.numel()),
            )
            if part is result.pos_gt_scores or 'mask_preds' not in names
        ]
        rows = torch.cat(weights)
        for name in names:
            value = bound.arguments[name]
            if isinstance(value, Tensor) and value.requires_grad:
                bound.arguments[name] = _weighed_rows(value, rows)
        return plain(*bound.args, **bound.kwargs)

    return loss_and_target


def _weighed_rows(values: Tensor, rows: Tensor) -> Tensor:
    own = values.view_as(values)
    shape = (-1, *[1] * (values.dim() - 1))
    own.register_hook(lambda gradient: gradient * rows.to(gradient).view(shape))
    return own


def _refuse_unknown_rows(head: Any, kind: str) -> None:
    if definer(head, 'loss_and_target') != kind:
        raise InputError(
            f'WeighByScore: the rows of {type(head).__name__} are not those of a {kind}; {WITHOUT}'
        )


# -- both ------------------------------------------------------------------------------------------


def _remembering(sample: Callable[..., Any], found: list[Any] | None = None) -> Callable[..., Any]:
    """A sampler whose results know the scores of their objects."""

    def remembering(
        assign_result: Any, pred_instances: Any, gt_instances: Any, *args: Any, **kwargs: Any
    ) -> Any:
        assigned = assign_result.gt_inds.numel()
        result = sample(assign_result, pred_instances, gt_instances, *args, **kwargs)
        objects = result.pos_assigned_gt_inds
        result.scored = 'scores' in gt_instances
        scores = gt_instances.scores if result.scored else torch.ones(
            len(gt_instances), device=objects.device
        )  # fmt: skip
        result.pos_gt_scores, result.assigned = scores[objects], assigned
        if found is not None:
            found.append(result)
        return result

    return remembering


def _many(part: Any) -> Iterator[Any]:
    """The stages of a head, one or several."""
    if part is not None:
        yield from part if isinstance(part, (list, nn.ModuleList)) else [part]


def _replace(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Put a function in the place of an object's method, until the stack is closed."""
    vars(owner)[name] = value
    stack.callback(vars(owner).pop, name)
