"""What methods of classifiers share: logits of both sides, standardised or not, and heads that are refused."""

import helpers as h
import pytest
import torch

from mmkd import InputError
from mmkd.core.classifying import ClassifierMethod
from mmkd.core.method import method_names

NAMES = {n: m for n, m in method_names().items() if issubclass(m, ClassifierMethod)}


def multi_label():
    cfg = h.classifier()
    cfg.head = dict(
        type='MultiLabelLinearClsHead', num_classes=h.CLASSES, in_channels=64,
        loss=dict(type='CrossEntropyLoss', use_sigmoid=True),
    )  # fmt: skip
    return cfg


@pytest.mark.parametrize('name', NAMES)
def test_it_trains_a_classifier(name):
    model = h.distiller(
        h.classifier(8), h.classifier(16), m=dict(type=f'mmkd.{NAMES[name].__name__}')
    )
    losses = {k: v for k, v in h.losses_of(model, 'classifier').items() if k.startswith('m/loss')}
    assert losses
    for loss in losses.values():
        model.zero_grad()
        loss.backward(retain_graph=True)
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(grad.isfinite().all() for grad in grads)
        assert sum(grad.abs().sum() for grad in grads) > 0


@pytest.mark.parametrize('name', NAMES)
def test_standardised_logits_forget_scale_and_offset(name):
    found = []
    for standardize in (True, False):
        method = NAMES[name](standardize=standardize)
        z = torch.randn(2, 3, 4)
        for student, teacher in (z, (5 * z[0] - 2, 7 + 0.1 * z[1])):
            step = type('S', (), {})()
            method.student_taps = method.teacher_taps = ['x']
            step.student, step.answers = {'x': [student]}, lambda t=teacher: {'x': [t]}
            found.append(method.logits(step))
    (a, b), (c, d) = found[:2]
    torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(b, d, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[2][0], found[3][0])


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize(
    ('student', 'teacher', 'words'),
    [
        (
            h.retinanet,
            h.retinanet,
            'is for the logits of a classifier, the student .* a dense head',
        ),
        (multi_label, multi_label, 'is for softmax classes, MultiLabelLinearClsHead'),
    ],
)
def test_other_heads_are_answered(name, student, teacher, words):
    kind = NAMES[name].__name__
    with pytest.raises(InputError, match=f'{kind} {words}'):
        h.distiller(student(), teacher(), m=dict(type=f'mmkd.{kind}'))


@pytest.mark.parametrize('name', NAMES)
def test_other_classes_are_answered(name):
    teacher = h.classifier()
    teacher.head.num_classes = 7
    with pytest.raises(InputError, match='class count mismatch: the student has 4'):
        h.distiller(h.classifier(), teacher, m=dict(type=f'mmkd.{NAMES[name].__name__}'))
