"""RKD on real classifiers: where embeddings are, whatever their widths."""

import helpers as h
import pytest
import torch

from mmkd import InputError, Tap
from mmkd.family.taps import capture
from mmkd.losses import relation_distances

RKD = dict(type='mmkd.RKD')


def test_embeddings_are_what_the_pooling_gives_whatever_their_widths():
    model = h.distiller(h.classifier(8), h.classifier(16), rkd=RKD).eval()
    batch = model.data_preprocessor(h.raw_batch('classifier', sizes=((64, 64),) * 4), True)
    losses = model(**batch, mode='loss')
    found = []
    for network in (model, model.distillation.teachers['teacher'].model):
        with torch.no_grad(), capture(network, [('backbone', 'output')]) as features:
            network(batch['inputs'], mode='tensor')
        found.append(features[Tap('backbone')][-1].mean((2, 3)))
    distance, angle = relation_distances(*found)
    assert losses['rkd/loss_distance'].item() == pytest.approx(25 * distance.item(), rel=1e-4)
    assert losses['rkd/loss_angle'].item() == pytest.approx(50 * angle.item(), rel=1e-4)


@pytest.mark.parametrize('tap', [None, 'backbone.layer3'])
def test_it_trains_the_student(tap):
    model = h.distiller(
        h.classifier(8), h.classifier(16), rkd=dict(RKD, **({'tap': tap} if tap else {}))
    )
    losses = h.losses_of(model, 'classifier', sizes=((64, 64),) * 4)
    sum(losses[f'rkd/loss_{term}'] for term in ('distance', 'angle')).backward()
    grads = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    assert sum(grad.abs().sum() for grad in grads) > 0


def test_a_term_without_weight_is_left_out():
    model = h.distiller(h.classifier(), h.classifier(), rkd=dict(RKD, angle=0.0))
    assert [k for k in h.losses_of(model, 'classifier') if '/loss' in k] == ['rkd/loss_distance']


def test_other_tasks_and_tokens_are_answered():
    with pytest.raises(InputError, match='RKD is for classification'):
        h.distiller(h.retinanet(), h.retinanet(), rkd=RKD)
    tokens = dict(RKD, tap='backbone.layers.1')
    with pytest.raises(InputError, match=r'RKD: the student gives .*50, 32.*needed: a vector'):
        h.distiller(h.transformer('vit'), h.classifier(), rkd=dict(tokens, teacher_tap='neck'))
