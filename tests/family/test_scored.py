"""Scores weigh the gradient of what a detector says about an object, and nothing else."""

import helpers as h
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from mmkd import InputError
from mmkd.family.scored import weigh_by_scores

DENSE = ['retinanet', 'gfl', 'rtmdet', 'softmax']
ROI = ['faster_rcnn', 'cascade_rcnn', 'mask_rcnn']


def scored(model, family, *scores):
    """A batch whose objects have a score, one for each image (None: none)."""
    data = model.data_preprocessor(h.raw_batch(family), True)
    for sample, score in zip(data['data_samples'], scores):
        if score is not None:
            count = len(sample.gt_instances)
            sample.gt_instances.scores = torch.full((count,), float(score))
    return data


def gradients(model, data, *heads):
    """The losses, and the gradient of everything that some modules give in one training forward."""
    found, seen = [], []

    def keep(module, inputs, output):
        for value in output if isinstance(output, tuple) else (output,):
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if tensor.requires_grad:
                    tensor.retain_grad()
                    found.append(tensor)

    hooks = [head.register_forward_hook(keep) for head in heads]
    torch.manual_seed(3)
    losses = model(**data, mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    seen = [t.grad for t in found]
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    return total.detach(), seen


@pytest.mark.parametrize('family', DENSE)
def test_a_dense_head_is_weighed_where_objects_are_assigned(family):
    model = h.freeze_statistics(h.build(h.FAMILIES[family]()))
    plain, before = gradients(model, scored(model, family), model.bbox_head)
    with weigh_by_scores(model):
        total, after = gradients(model, scored(model, family, 0.25, None), model.bbox_head)
        same, untouched = gradients(model, scored(model, family, 1.0, 1.0), model.bbox_head)
    assert total == plain == same
    halved = 0
    for old, new, kept in zip(before, after, untouched):
        torch.testing.assert_close(kept, old)
        torch.testing.assert_close(new[1], old[1])
        places = (new[0] - 0.25 * old[0]).abs() < 1e-7 * old[0].abs() + 1e-12
        whole = (new[0] - old[0]).abs() <= 1e-7 * old[0].abs()
        assert (places | whole).all()
        halved += int((places & (old[0] != 0)).sum())
    assert halved > 4
    assert gradients(model, scored(model, family, 0.25, 0.25), model.bbox_head)[1][0].equal(
        before[0]
    )


def focal(logits, labels, classes):
    """Focal loss as its paper has it, a sum over classes for each row."""
    targets = torch.nn.functional.one_hot(labels, classes + 1)[..., :classes].to(logits)
    chance = logits.sigmoid()
    right = targets * chance + (1 - targets) * (1 - chance)
    alpha = targets * 0.25 + (1 - targets) * 0.75
    plain = binary_cross_entropy_with_logits(logits, targets, reduction='none')
    return (alpha * (1 - right) ** 2 * plain).sum(-1)


def test_retinanet_learns_the_weighted_loss_written_by_hand():
    model = h.build(h.retinanet()).eval()
    head, weights = model.bbox_head, torch.tensor([0.5, 0.25])
    data = scored(model, 'retinanet', *weights)
    maps = model.extract_feat(data['inputs'])
    classes, boxes = head(maps)
    metas = [sample.metainfo for sample in data['data_samples']]
    instances = [sample.gt_instances for sample in data['data_samples']]
    anchors, flags = head.get_anchors([m.shape[-2:] for m in classes], metas, device='cpu')
    labels, seen, targets, sides, count = head.get_targets(anchors, flags, instances, metas)
    expected = 0.0
    for scores, deltas, label, kept, target, side in zip(
        classes, boxes, labels, seen, targets, sides
    ):
        logits = scores.permute(0, 2, 3, 1).reshape(2, -1, h.CLASSES)
        distance = (deltas.permute(0, 2, 3, 1).reshape(2, -1, 4) - target).abs()
        weight = torch.where(label < h.CLASSES, weights[:, None], torch.ones(2, 1)) * kept
        expected += (weight * focal(logits, label, h.CLASSES)).sum() / count
        expected += (weight[..., None] * side * distance).sum() / count
    parameters = list(head.parameters())
    by_hand = torch.autograd.grad(expected, parameters)
    with weigh_by_scores(model):
        losses = head.loss(model.extract_feat(data['inputs']), data['data_samples'])
        own = torch.autograd.grad(sum(sum(v) for v in losses.values()), parameters)
    assert any(grad.abs().max() > 1e-3 for grad in own)
    for ours, theirs in zip(own, by_hand):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('family', ROI)
def test_a_roi_head_is_weighed_by_the_boxes_of_objects(family):
    model = h.freeze_statistics(h.build(h.FAMILIES[family]()))
    head = model.roi_head.bbox_head
    heads = list(head) if family == 'cascade_rcnn' else [head]
    if family == 'mask_rcnn':
        heads.append(model.roi_head.mask_head)
    plain, before = gradients(model, scored(model, family), *heads)
    with weigh_by_scores(model):
        total, after = gradients(model, scored(model, family, 0.5, 0.5), *heads)
    assert total == plain
    assert len(before) == len(after) == 2 * len(heads) - (family == 'mask_rcnn')
    for old, new in zip(before, after):
        rows = [i for i in range(len(old)) if old[i].any()]
        shares = {i: (new[i].norm() / old[i].norm()).item() for i in rows}
        weighed = [i for i in rows if shares[i] == pytest.approx(0.5, rel=1e-5)]
        whole = [i for i in rows if shares[i] == pytest.approx(1.0, rel=1e-5)]
        assert weighed
        assert len(weighed) + len(whole) == len(rows)
        if old.dim() == 2 and old.shape[1] == h.CLASSES + 1:
            assert whole
        else:  # boxes and masks of objects only
            assert not whole


@pytest.mark.parametrize('family', ['fcos', 'dino', 'deformable_detr'])
def test_a_head_that_assigns_otherwise_is_refused(family):
    model = h.build(h.FAMILIES[family]())
    with pytest.raises(InputError, match=r'WeighByScore: \w+Head assigns.*weight_by_score=False'):
        weigh_by_scores(model)


def test_a_head_of_rows_of_another_kind_is_refused():
    model = h.build(h.faster_rcnn())
    model.roi_head.bbox_head.__class__ = type(
        'Other', (type(model.roi_head.bbox_head),), {'loss_and_target': lambda self: None}
    )
    with pytest.raises(InputError, match='the rows of Other are not those of a BBoxHead'):
        weigh_by_scores(model)
