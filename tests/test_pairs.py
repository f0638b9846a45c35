"""Students and teachers of different families, strides and classes."""

import helpers as h
import pytest
import torch

from mmkd import Tap
from mmkd.family.taps import capture
from mmkd.losses import pearson_distance

PKD = dict(type='mmkd.PKD', weight=1.0)
WIDE = ((64, 96), (64, 96))


def levels(method):
    """The levels that are compared, by place."""
    return [[(tap.at, tap.levels) for tap in taps] for taps in method.level_taps]


def trained(model, family, **options):
    """The losses of one step, of which every part of the methods has had gradient."""
    losses = h.losses_of(model.train(), family, **options)
    model.parse_losses(losses)[0].backward()
    grads = [p.grad for p in model.backbone.parameters() if p.requires_grad]
    assert any(g is not None and g.abs().sum() > 0 for g in grads)
    return losses


@pytest.mark.parametrize('student', ['retinanet', 'gfl', 'fcos'])
@pytest.mark.parametrize('teacher', ['faster_rcnn', 'cascade_rcnn', 'mask_rcnn'])
def test_a_two_stage_teacher_teaches_the_levels_of_equal_stride(student, teacher):
    model = h.distiller(h.FAMILIES[student](), h.FAMILIES[teacher](), pkd=PKD)
    ours, theirs = levels(model.distillation.methods['pkd'])
    assert ours == [('neck', (i,)) for i in range(4)]  # strides 8 to 64
    assert theirs == [('neck', (i,)) for i in range(1, 5)]
    assert trained(model, student)['pkd/loss'] > 0


def test_its_loss_is_that_of_these_levels():
    model = h.distiller(h.retinanet(), h.faster_rcnn(), pkd=PKD).eval()
    batch = model.data_preprocessor(h.raw_batch('retinanet', sizes=((128, 128),) * 2), True)
    teacher = model.distillation.teachers['teacher'].model
    maps = []
    with torch.no_grad():
        got = model(**batch, mode='loss')['pkd/loss']
        for network in (model, teacher):
            with capture(network, [('neck', 'output')]) as features:
                network.extract_feat(batch['inputs'])
            maps.append(features[Tap('neck')])
    pairs = [(maps[0][i], maps[1][i + 1]) for i in range(4)]
    assert all(s.shape == t.shape for s, t in pairs)
    expected = sum(pearson_distance(s, t) for s, t in pairs)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('method', ['FGD', 'DPK'])
def test_methods_of_detectors_follow_the_pairs(method):
    options = dict(size='light', optimizer=None) if method == 'DPK' else {}
    model = h.distiller(h.retinanet(), h.faster_rcnn(), one=dict(type=f'mmkd.{method}', **options))
    assert len(levels(model.distillation.methods['one'])[0]) == 4
    trained(model, 'retinanet')


@pytest.mark.parametrize('kind', ['swin', 'vit'])
@pytest.mark.parametrize('student', ['retinanet', 'rtmdet', 'classifier', 'segmentor'])
@pytest.mark.parametrize('method', ['PKD', 'CWD', 'FitNet', 'AT'])
def test_a_transformer_of_classes_teaches_a_cnn(kind, student, method):
    options = dict(sizes=WIDE) if student in ('retinanet', 'rtmdet') else {}
    teacher = h.transformer(kind)
    if kind == 'swin':
        teacher.backbone.pad_small_map = True  # images are smaller here than its window
    model = h.distiller(h.FAMILIES[student](), teacher, one=dict(type=f'mmkd.{method}'))
    assert trained(model, student, **options)['one/loss'] > 0


def test_dense_students_learn_from_the_blocks_of_a_vit():
    model = h.distiller(h.rtmdet(), h.transformer('vit'), pkd=PKD)
    ours, theirs = levels(model.distillation.methods['pkd'])
    assert (ours, theirs) == ([('neck', (2,))], [('backbone.layers.3', (0,))])


def other_classes(family, count):
    config = h.FAMILIES[family]()
    head = config.head if family == 'classifier' else config.bbox_head
    head.num_classes = count
    return config


@pytest.mark.parametrize('family', ['retinanet', 'classifier'])
def test_other_classes_matter_to_logits_only(family):
    teacher = other_classes(family, 7)
    assert trained(h.distiller(h.FAMILIES[family](), teacher, pkd=PKD), family)['pkd/loss'] > 0
    message = h.message_of(
        lambda: h.distiller(h.FAMILIES[family](), teacher, kd=dict(type='mmkd.KD'))
    )
    assert 'class count mismatch: the student has 4 classes, the teacher 7' in message
    assert 'a feature method (pkd, cwd)' in message


def test_two_teachers_of_different_families():
    h.outside('timm')
    teachers = dict(
        two_stage=dict(config=h.faster_rcnn(), checkpoint='untrained'),
        vit=dict(config='timm::test_vit', checkpoint='untrained'),
    )
    model = h.distiller(
        h.retinanet(),
        teachers,
        pkd=dict(PKD, teacher='two_stage'),
        at=dict(type='mmkd.AT', teacher='vit'),
    )
    losses = trained(model, 'retinanet')
    assert losses['pkd/loss'] > 0
    assert losses['at/loss'] > 0
    assert levels(model.distillation.methods['at'])[1] == [('backbone', (0,))]


def test_a_vit_of_classes_is_read_where_it_has_maps():
    model = h.distiller(h.classifier(), h.transformer('vit'), pkd=PKD)
    assert levels(model.distillation.methods['pkd']) == [
        [('backbone.layer4', None)],
        [('backbone.layers.3', None)],
    ]
    vits = h.distiller(h.transformer('vit'), h.transformer('vit'), pkd=PKD)
    assert levels(vits.distillation.methods['pkd']) == [[('backbone', None)]] * 2
