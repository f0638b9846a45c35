"""ReviewKD on real models: where it reads, how wide it fuses, and that all of it is trained."""

import helpers as h
import pytest
import torch

from mmkd import InputError
from mmkd.losses.contexts import context_distance

REVIEW = dict(type='mmkd.ReviewKD')


@pytest.mark.parametrize(
    ('family', 'taps', 'width'),
    [('classifier', 4, 64), ('retinanet', 1, 16), ('segmentor', 1, 64), ('faster_rcnn', 1, 16)],
)
def test_it_trains_students_and_fusions_of_every_task(family, taps, width):
    teacher = h.classifier(16) if family == 'classifier' else h.FAMILIES[family]()
    model = h.distiller(h.FAMILIES[family](), teacher, review_kd=REVIEW)
    method = model.distillation.review_kd
    assert (len(method.student_taps), method.width) == (taps, width)
    h.losses_of(model, family)['review_kd/loss'].backward()
    grads = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    assert sum(grad.abs().sum() for grad in grads) > 0
    assert all(p.grad is not None for p in method.parameters())


def test_the_loss_is_summed_over_levels():
    model = h.distiller(h.classifier(), h.classifier(), review_kd=dict(REVIEW, width=8)).eval()
    method = model.distillation.review_kd
    levels = [
        (torch.randn(2, 8 << i, 8 >> i, 8 >> i), torch.randn(2, 8 << i, 8 >> i, 8 >> i))
        for i in range(4)
    ]
    method.raw_pairs = lambda step: levels
    ours = method.reviewer([s for s, _ in levels], [t.shape[2:] for _, t in levels])
    expected = sum(context_distance(s, t) for s, (_, t) in zip(ours, levels))
    torch.testing.assert_close(method(None)['loss'], expected)


def test_a_single_level_is_answered():
    with pytest.raises(InputError, match='ReviewKD: a single level'):
        h.distiller(h.classifier(), h.classifier(), review_kd=dict(REVIEW, tap='backbone.layer4'))
