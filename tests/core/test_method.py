"""What a method is: options, weights and taps; and feature methods on real model families."""

import helpers as h
import pytest
import torch
import torch.nn.functional as F
from torch import Size

from mmkd import InputError, Tap
from mmkd.core.levels import channels_of, levels_of, refuse_unordered
from mmkd.core.method import (
    FeatureMethod,
    Method,
    build_method,
    find_method,
    method_names,
    refuse_other_task,
)
from mmkd.core.step import Side
from mmkd.family.taps import capture
from mmkd.losses import attention_distance, channel_kl, pearson_distance

METHODS = dict(pkd='mmkd.PKD', cwd='mmkd.CWD', at='mmkd.AT', fitnet='mmkd.FitNet')
DISTANCES = dict(pkd=pearson_distance, cwd=channel_kl, at=attention_distance, fitnet=F.mse_loss)


def captured(model, place, batch):
    """A plain forward of a model with one place read."""
    with capture(model, [(place, 'output')]) as features:
        model(batch['inputs'], batch['data_samples'], mode='tensor')
    return features[Tap(place)]


@pytest.mark.parametrize('family', h.FAMILIES)
@pytest.mark.parametrize('method', METHODS)
def test_every_family_trains_with_every_method(family, method):
    teacher = h.retinanet(width=16) if family == 'retinanet' else h.FAMILIES[family]()
    model = h.distiller(h.FAMILIES[family](), teacher, **{method: dict(type=METHODS[method])})
    model.train()
    losses = h.losses_of(model, family)
    assert losses[f'{method}/loss'] > 0
    loss, _ = model.parse_losses(losses)
    loss.backward()
    trained = [
        p for n, p in model.named_parameters() if n.startswith('backbone') and p.requires_grad
    ]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


@pytest.mark.parametrize('method', METHODS)
def test_the_loss_is_the_distance_of_the_levels_summed_and_weighted(method):
    options = dict(type=METHODS[method], weight=2.0)
    model = h.distiller(h.retinanet(), h.retinanet(), **{method: options}).eval()
    batch = model.data_preprocessor(h.raw_batch('retinanet'), True)
    teacher = model.distillation.teachers['teacher'].model
    with torch.no_grad():
        got = model(**batch, mode='loss')[f'{method}/loss']
        ours, theirs = (captured(m, 'neck', batch) for m in (model, teacher))
        expected = 2.0 * sum(DISTANCES[method](s, t) for s, t in zip(ours, theirs))
    assert len(ours) == 5
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_levels_choose_and_pair():
    tap = dict(at='neck', levels=[0, 1])
    model = h.distiller(
        h.retinanet(),
        h.retinanet(),
        fitnet=dict(
            type='mmkd.FitNet', tap=tap, teacher_tap=dict(at='neck', levels=[1, 2]), weight=1.0
        ),
    ).eval()
    batch = model.data_preprocessor(h.raw_batch('retinanet'), True)
    teacher = model.distillation.teachers['teacher'].model
    with torch.no_grad():
        got = model(**batch, mode='loss')['fitnet/loss']
        ours, theirs = (captured(m, 'neck', batch) for m in (model, teacher))
    resized = [F.interpolate(ours[i], theirs[i + 1].shape[-2:], mode='bilinear') for i in (0, 1)]
    expected = sum(F.mse_loss(resized[i], theirs[i + 1]) for i in (0, 1))
    torch.testing.assert_close(got, expected)


def test_several_taps_are_concatenated():
    taps = ['backbone.layer3', 'backbone.layer4']
    fitnet = dict(type='mmkd.FitNet', tap=taps)
    model = h.distiller(h.classifier(8), h.classifier(16), fitnet=fitnet)
    sizes = [
        (a.project.in_channels, a.project.out_channels) for a in model.distillation.fitnet.adapters
    ]
    assert sizes == [(32, 64), (64, 128)]


def test_adapters_are_trained_saved_and_have_the_right_channels():
    fitnet = dict(type='mmkd.FitNet', tap='backbone.layer4')
    model = h.distiller(h.classifier(8), h.classifier(16), fitnet=fitnet)
    names = [n for n in model.state_dict() if n.startswith('distillation.')]
    assert names == [f'distillation.fitnet.adapters.0.project.{n}' for n in ('weight', 'bias')]
    loss, _ = model.parse_losses(h.losses_of(model, 'classifier'))
    loss.backward()
    assert model.distillation.fitnet.adapters[0].project.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('name', method_names())
def test_every_method_is_found_by_its_names(name):
    method = method_names()[name]
    assert issubclass(method, Method)
    for given in (name, name.upper(), f'mmkd.{method.__name__}', '-'.join(name)):
        assert find_method(given) is method


def test_a_weight_is_the_configs_or_the_published_one_or_one():
    class Weighted(Method):
        weights = {'detection': 6.0}

    for given, task, expected in [
        (None, 'detection', 6.0), (None, 'other', 1.0), (0.5, 'detection', 0.5), (0, 'other', 0),
    ]:  # fmt: skip
        method = Weighted(weight=given)
        method.choose_weight(task)
        assert method.weight(0.3) == expected


def test_without_a_say_a_method_has_no_state_and_all_its_terms_reach_the_student():
    method = Method()
    assert (method.training_state(), list(method.idle_parameters(0.0))) == (None, [])
    assert method.reaches_student('loss')
    with pytest.raises(NotImplementedError):
        method(None)


@pytest.mark.parametrize(
    ('family', 'place'),
    [('retinanet', 'neck'), ('classifier', 'backbone'), ('segmentor', 'backbone')],
)
def test_by_default_the_neck_of_detectors_and_the_backbone_of_others_is_tapped(family, place):
    method = FeatureMethod()
    method.plan(*[h.build(h.FAMILIES[family]())] * 2)
    assert method.student_taps == method.teacher_taps == [Tap(place)]


def side(*shapes):
    """A network with one tap, whose levels have these shapes."""
    return Side(
        h.build(h.classifier()), {}, {Tap('neck'): [Size(s) for s in shapes]}, 'the student'
    )


def test_levels_are_told_by_their_own_numbers():
    tap = Tap('neck', levels=(2, 0))
    given = Side(None, {}, {tap: [Size((1, 4, 2, 2)), Size((1, 9, 8))]}, 'the student')
    words = [what for what, _ in levels_of(given, [tap])]
    assert words == ["tap 'neck' level 2", "tap 'neck' level 0"]
    assert channels_of(given, [tap]) == [4, 8]


@pytest.mark.parametrize(
    ('shapes', 'words'),
    [
        (
            [(1, 4, 8, 8)],
            "SFR: a single level [(8, 8)] of the student at 'neck'; needed: two or more",
        ),
        ([(1, 4, 4, 4), (1, 4, 8, 8)], "the maps of the student at 'neck' grow: [(4, 4), (8, 8)]"),
        ([(1, 4, 8, 4), (1, 4, 4, 5)], "the maps of the student at 'neck' grow: [(8, 4), (4, 5)]"),
    ],
)
def test_levels_that_are_not_shallow_to_deep_are_named(shapes, words):
    refuse_unordered('SFR', side((1, 4, 8, 8), (1, 4, 8, 8), (1, 4, 4, 4)), [Tap('neck')])
    assert words in h.message_of(refuse_unordered, 'SFR', side(*shapes), [Tap('neck')])


def test_a_method_for_another_task_is_named():
    refuse_other_task(FeatureMethod(), side(), 'classification')
    text = h.message_of(refuse_other_task, FeatureMethod(), side(), 'detection')
    assert text.startswith(
        'FeatureMethod is for detection, the student (ImageClassifier) does classification'
    )


@pytest.mark.parametrize(
    ('config', 'words'),
    [
        ('mmkd.PKD', "methods.a: 'mmkd.PKD'; needed: dict(type='mmkd.PKD', ...)"),
        (dict(weight=1.0), "methods.a: {'weight': 1.0}; needed: dict(type='mmkd.PKD', ...)"),
        (dict(type='mmkd.PDK'), "unknown method 'mmkd.PDK'; nearest: 'pkd'"),
        (dict(type=3), "methods.a: type=3; needed: a method's name ('mmkd.PKD') or class"),
        (dict(type=dict), "methods.a: type=<class 'dict'>; needed: a method's name"),
        (dict(type='mmkd.PKD', wieght=1.0), "methods.a: unknown option 'wieght'; nearest: 'weight'"),
        (dict(type='mmkd.CWD', temperature=0.0), 'methods.a: CWD: temperature=0.0; needed: a finite'),
        (dict(type='mmkd.FitNet', optimizer=dict(lr=1.0)), 'methods.a: FitNet: optimizer={'),
    ],
)  # fmt: skip
def test_a_wrong_method_is_named(config, words):
    assert h.message_of(build_method, 'a', config).startswith(words)


def test_a_teacher_of_another_family_and_task():
    """A classifier's backbone teaches a detector's."""
    fitnet = dict(type='mmkd.FitNet', tap='backbone.layer4')
    model = h.distiller(h.retinanet(), h.classifier(16), fitnet=fitnet)
    assert h.losses_of(model, 'retinanet')['fitnet/loss'] > 0


def test_tokens_of_a_transformer_teach_a_convolutional_map():
    swin = h.classifier()
    swin.backbone = dict(
        _delete_=True, type='SwinTransformer', arch=dict(
            embed_dims=12, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1]), img_size=64, window_size=2,
    )  # fmt: skip
    swin.backbone.pop('_delete_')
    swin.head.in_channels = 96
    fitnet = dict(type='mmkd.FitNet', tap='backbone.layer4', teacher_tap='backbone.stages.3')
    model = h.distiller(h.classifier(), swin, fitnet=fitnet)
    assert model.distillation.fitnet.adapters[0].project.out_channels == 96
    assert h.losses_of(model, 'classifier')['fitnet/loss'] > 0


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(tap='nek'), ["unknown tap 'nek'", 'the student', "'neck'"]),
        (dict(tap=dict(at='neck', levels=[7])), ['levels [7]', 'the student has 5 levels']),
        (
            dict(tap='neck', teacher_tap=dict(at='neck', levels=[0])),
            ['5 levels', '1 at', 'levels=[...]'],
        ),
        (dict(teacher_tap='backbone.bn'), ["'backbone.bn'", 'the teacher']),
        (
            dict(tap=dict(at='neck', levels=[0]), teacher_tap='bbox_head.loss_cls'),
            ['did not run it'],
        ),
    ],
)
def test_wrong_taps_are_named(options, words):
    with pytest.raises(InputError) as error:
        h.distiller(h.retinanet(), h.retinanet(), pkd=dict(type='mmkd.PKD', **options))
    assert all(word in str(error.value) for word in words)


def test_shapes_that_cannot_fit_are_named_with_tap_level_and_both_shapes():
    cross = dict(type='mmkd.FitNet', tap='backbone.layer4', teacher_tap='encoder')
    with pytest.raises(InputError) as error:
        h.distiller(h.retinanet(), h.dino(), fitnet=cross)
    words = [
        "FitNet: tap 'backbone.layer4' level 0",
        'student (1, 64, 4, 4)',
        'teacher (1, 340, 32)',
    ]
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize('tap', ['neck', 'neck.gap'])
@pytest.mark.parametrize('method', ['cwd', 'at'])
def test_a_distance_that_would_always_be_zero_is_answered(method, tap):
    with pytest.raises(
        InputError, match=rf"tap '{tap}' level 0 of the student has a single position"
    ):
        h.distiller(h.classifier(), h.classifier(), **{method: dict(type=METHODS[method], tap=tap)})


@pytest.mark.parametrize('method', ['cwd', 'fitnet', 'pkd', 'at'])
def test_scores_of_other_classes_are_no_features(method):
    teacher = h.segmentor()
    teacher.decode_head.num_classes = 7
    options = dict(type=METHODS[method], tap='decode_head.conv_seg')
    with pytest.raises(InputError, match=r"'decode_head.conv_seg'.* scores of 4 classes, .* of 7"):
        h.distiller(h.segmentor(), teacher, **{method: options})
    options = dict(type=METHODS[method], tap='backbone')
    assert h.distiller(h.segmentor(), teacher, **{method: options})
