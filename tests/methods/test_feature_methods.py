"""pkd, cwd, at and fitnet on real model families."""

import helpers as h
import pytest
import torch
import torch.nn.functional as F

from mmkd import InputError, Tap
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


def test_attention_needs_no_adapter():
    model = h.distiller(h.classifier(8), h.classifier(16), at=dict(type='mmkd.AT'))
    assert not [n for n in model.state_dict() if n.startswith('distillation.')]
    taps = [tap.at for tap in model.distillation.at.student_taps]
    assert taps == ['backbone.layer2', 'backbone.layer3', 'backbone.layer4']


@pytest.mark.parametrize(
    ('family', 'method', 'weight', 'tap'),
    [
        ('retinanet', 'pkd', 6.0, 'neck'),
        ('classifier', 'fitnet', 100.0, 'backbone'),
        ('retinanet', 'fitnet', 1.0, 'neck'),
        ('segmentor', 'cwd', 3.0, 'decode_head.conv_seg'),
        ('retinanet', 'cwd', 5.0, 'neck'),
        ('segmentor', 'at', 1000.0, 'backbone'),
    ],
)
def test_defaults_follow_the_task(family, method, weight, tap):
    options = {method: dict(type=METHODS[method])}
    model = h.distiller(h.FAMILIES[family](), h.FAMILIES[family](), **options)
    built = model.distillation.methods[method]
    assert built.weight(0.0) == weight
    assert [t.at for t in built.student_taps] == [tap]


def test_cwd_temperature_follows_the_task():
    cwd = dict(type='mmkd.CWD')
    models = [h.distiller(h.FAMILIES[f](), h.FAMILIES[f](), cwd=cwd) for f in ('segmentor', 'gfl')]
    assert [m.distillation.cwd.temperature for m in models] == [4.0, 1.0]


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
        (dict(teacher_tap=dict(at='neck', levels=[0])), ['5 levels', '1 at', 'levels=[...]']),
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
