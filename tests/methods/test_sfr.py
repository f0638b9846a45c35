"""SFR: its terms for each task, its smoothing, its state in training and evaluation, its errors."""

import math
from types import SimpleNamespace

import helpers as h
import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub

from mmkd.errors import InputError
from mmkd.family.boxes import annotated_boxes
from mmkd.losses.transport import box_weights, transport_loss
from mmkd.methods.sfr import SFR, default_stages


def build(family='classifier', student=None, **options):
    model = h.distiller(student or h.FAMILIES[family](), sfr=dict(type='mmkd.SFR', **options))
    return h.freeze_statistics(model)


@pytest.fixture
def at(monkeypatch):
    """Put training at a point of progress."""
    return lambda progress: monkeypatch.setattr('mmkd.core.engine.progress', lambda: progress)


def stages(model, images, names=('layer1', 'layer2', 'layer3', 'layer4')):
    backbone = model.backbone
    x = backbone.maxpool(backbone.relu(backbone.norm1(backbone.conv1(images))))
    maps = {}
    for name in backbone.res_layers:
        x = maps[name] = getattr(backbone, name)(x)
    return [maps[name] for name in names]


def smoothed_cross_entropy(logits, target, rate):
    smooth = (1 - rate[:, None]) * target + rate[:, None] / logits.shape[1]
    return -(smooth * logits.log_softmax(1)).sum(1)


def windows(size):
    """The fewest of at most 7 that cover a map, all of one size if possible."""
    return tuple(math.ceil(n / math.ceil(n / 7)) for n in size)


# -- label smoothing ------------------------------------------------------------------------------


@pytest.mark.parametrize('augments', [None, 'Mixup', 'CutMix'])
def test_the_students_loss_and_the_term_are_the_loss_of_smoothed_labels(augments, at):
    student = h.classifier()
    student.head.loss.loss_weight = 0.7
    student.head.cal_acc = False
    if augments:
        student.train_cfg = dict(augments=dict(type=augments, alpha=1.0))
    model = build(student=student, feature=0, smoothing=0.3)
    data = model.data_preprocessor(h.raw_batch('classifier'), True)
    assert ('gt_score' in data['data_samples'][0]) == bool(augments)
    at(0.5)
    losses = model(**data, mode='loss')
    logits = model(data['inputs'], mode='tensor')
    if augments:
        target = torch.stack([sample.gt_score for sample in data['data_samples']])
    else:
        labels = torch.cat([sample.gt_label for sample in data['data_samples']])
        target = F.one_hot(labels, h.CLASSES).float()
    rate = 0.3 * 0.5 * (logits.softmax(1) * target).sum(1)
    expected = 0.7 * smoothed_cross_entropy(logits, target, rate.detach()).mean()
    total = losses['loss'] + losses['sfr/loss_smoothing']
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert losses['sfr/rate'].item() == pytest.approx(rate.mean().item(), rel=1e-5)
    weight = model.head.fc.weight
    first, second = (torch.autograd.grad(x, weight)[0] for x in (total, expected))
    assert torch.allclose(first, second, atol=1e-7)


@pytest.mark.parametrize('family', ['faster_rcnn', 'cascade_rcnn'])
def test_labels_of_foreground_boxes_are_smoothed_as_the_student_weighs_them(family, at):
    model = build(family, feature=0)
    at(0.5)
    heads, factors, seen = model.roi_head.bbox_head, [1.0], []
    if family == 'cascade_rcnn':
        factors = model.roi_head.stage_loss_weights
    heads = heads if family == 'cascade_rcnn' else [heads]
    for head in heads:
        head.loss_cls.register_forward_hook(
            lambda m, inputs, kwargs, out: seen.append((inputs, kwargs)), with_kwargs=True
        )
    losses = h.losses_of(model, family)
    expected, rates = 0.0, []
    for factor, ((logits, labels, weights), options) in zip(factors, seen):
        target = F.one_hot(labels, logits.shape[1]).float()
        rate = 0.1 * 0.5 * (logits.softmax(1) * target).sum(1).detach() * (labels < h.CLASSES)
        grown = smoothed_cross_entropy(logits, target, rate) - F.cross_entropy(
            logits, labels, reduction='none'
        )
        expected += factor * (grown * weights).sum().item() / options['avg_factor']
        rates.append(rate[labels < h.CLASSES])
    assert len(seen) == len(heads)
    assert losses['sfr/loss_smoothing'].item() == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert losses['sfr/rate'].item() == pytest.approx(torch.cat(rates).mean().item(), rel=1e-4)


def test_without_objects_nothing_is_smoothed(at):
    model = build('faster_rcnn', feature=0)
    batch = h.raw_batch('faster_rcnn')
    for sample in batch['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    at(0.5)
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    assert losses['sfr/loss_smoothing'].item() == 0
    assert losses['sfr/rate'].item() == 0


# -- the feature term -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('pairing', 'pairs'),
    [
        ('last', [(0, 3), (1, 3), (2, 3)]),
        ('adjacent', [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_classification_is_the_mean_over_the_pairs_of_stages(pairing, pairs, at):
    model = build(pairing=pairing, smoothing=None)
    data = model.data_preprocessor(h.raw_batch('classifier', ((96, 96),) * 2), True)
    at(0.05)
    losses = model(**data, mode='loss')
    maps = stages(model, data['inputs'])
    total = 0.0
    for shallow, deep in pairs:
        window = windows(maps[deep].shape[-2:])
        total += transport_loss(maps[shallow], maps[deep], window).item()
    expected = 0.5 * 0.05 * total / len(pairs)
    assert losses['sfr/loss_features'].item() == pytest.approx(expected, rel=1e-4)


def test_the_feature_term_is_warmed_up(at):
    model = build()
    values = {}
    for progress in (0.0, 0.05, 0.1, 1.0):
        at(progress)
        values[progress] = h.losses_of(model, 'classifier')
    features = {p: losses['sfr/loss_features'].item() for p, losses in values.items()}
    assert features[0.0] == 0
    assert features[0.05] == pytest.approx(features[1.0] / 2, rel=1e-5)
    assert features[0.1] == pytest.approx(features[1.0], rel=1e-5)
    assert (
        values[0.0]['sfr/loss_smoothing'].item() == 0 != values[0.05]['sfr/loss_smoothing'].item()
    )
    detector = build('retinanet')
    values = []
    for progress in (1 / 6, 7 / 12, 1.0):
        at(progress)
        values.append(h.losses_of(detector, 'retinanet')['sfr/loss_features'].item())
    assert values[0] == 0
    assert values[1] == pytest.approx(values[2] / 2, rel=1e-4)


def test_the_deepest_stage_gets_no_gradient_and_all_others_do(at):
    model = build(smoothing=None)
    at(1.0)
    h.losses_of(model, 'classifier')['sfr/loss_features'].backward()
    for name in model.backbone.res_layers:
        grads = [p.grad for p in getattr(model.backbone, name).parameters()]
        moved = any(grad is not None and bool(grad.any()) for grad in grads)
        assert moved == (name != 'layer4')


def test_detectors_learn_from_c5_where_boxes_are(at):
    model = build('retinanet', student=h.retinanet(frozen_stages=2), boxes=True)
    data = model.data_preprocessor(h.raw_batch('retinanet'), True)
    at(1.0)
    model.train()
    h.freeze_statistics(model)
    losses = model(**data, mode='loss')
    losses['sfr/loss_features'].backward()
    assert model.backbone.layer3[0].downsample[0].weight.grad.abs().sum() > 0
    assert model.backbone.layer4[0].downsample[0].weight.grad is None
    maps = [m.detach() for m in stages(model, data['inputs'], ('layer3', 'layer4'))]
    grid, image = maps[1].shape[-2:], data['inputs'].shape[-2:]
    weights = box_weights(annotated_boxes(data['data_samples']), grid, image)
    expected = 0.25 * transport_loss(*maps, tuple(grid), weights, solver='sinkhorn')
    assert losses['sfr/loss_features'].item() == pytest.approx(expected.item(), rel=1e-4)


def test_branches_of_a_deeper_stage_are_compared_one_by_one(at, monkeypatch):
    model = build('retinanet', boxes=True)
    method = model.distillation.sfr
    data = model.data_preprocessor(h.raw_batch('retinanet'), True)
    shallow, deep = torch.randn(2, 8, 8, 8, requires_grad=True), torch.randn(6, 8, 4, 4)
    monkeypatch.setattr(method, '_maps', lambda step: [shallow, deep])
    step = SimpleNamespace(samples=data['data_samples'], inputs=data['inputs'])
    weights = box_weights(annotated_boxes(step.samples), (4, 4), step.inputs.shape[-2:])
    each = [
        transport_loss(shallow, branch, (4, 4), weights, solver=method.solver or 'exact')
        for branch in deep.split(2)
    ]
    found = method._features(step)
    assert found.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-5)


def test_positions_of_detectors_count_alike_by_default(at):
    model = build('retinanet')
    data = model.data_preprocessor(h.raw_batch('retinanet'), True)
    at(1.0)
    losses = model(**data, mode='loss')
    maps = stages(model, data['inputs'], ('layer2', 'layer3', 'layer4'))
    window = windows(maps[2].shape[-2:])
    values = [transport_loss(shallow, maps[2], window).item() for shallow in maps[:2]]
    expected = 0.25 * sum(values) / 2
    assert losses['sfr/loss_features'].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ('family', 'terms'),
    [
        ('classifier', {'loss_features', 'loss_smoothing', 'rate'}),
        ('retinanet', {'loss_features'}),
        ('gfl', {'loss_features'}),
        ('rtmdet', {'loss_features'}),
        ('faster_rcnn', {'loss_features', 'loss_smoothing', 'rate'}),
        ('mask_rcnn', {'loss_features', 'loss_smoothing', 'rate'}),
        ('dino', {'loss_features'}),
        ('segmentor', {'loss_features'}),
    ],
)
def test_any_family_trains(family, terms, at):
    model = build(family)
    at(0.9)
    losses = h.losses_of(model, family)
    assert {name[4:] for name in losses if name.startswith('sfr/')} == terms
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize('kind', ['swin', 'vit'])
def test_transformers_regularise_themselves(kind, at):
    model = build(student=h.transformer(kind))
    at(0.9)
    losses = h.losses_of(model, 'classifier', sizes=((224, 224),) * 2)
    assert losses['sfr/loss_features'].item() > 0


def test_it_is_finite_under_autocast_and_at_odd_sizes(at):
    at(0.9)
    for family, size in (
        ('classifier', (75, 37)),
        ('retinanet', (75, 100)),
        ('classifier', (32, 32)),
    ):
        model = build(family)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            losses = h.losses_of(model, family, sizes=(size, size))
        assert losses['sfr/loss_features'].dtype == torch.float
        total, _ = model.parse_losses(losses)
        total.backward()
        assert total.isfinite()


# -- beside the student ---------------------------------------------------------------------------


def test_evaluation_and_parameters_are_the_students():
    torch.manual_seed(0)
    plain = h.build(h.classifier()).eval()
    model = h.distiller(h.classifier(), sfr=dict(type='mmkd.SFR')).eval()
    model.load_state_dict(plain.state_dict())
    data = plain.data_preprocessor(h.raw_batch('classifier'), False)
    assert torch.equal(plain(data['inputs'], mode='tensor'), model(data['inputs'], mode='tensor'))
    scores = [[s.pred_score for s in net(**data, mode='predict')] for net in (plain, model)]
    assert all(torch.equal(a, b) for a, b in zip(*scores))
    assert set(model.state_dict()) == set(plain.state_dict())


@pytest.mark.parametrize('family', ['classifier', 'retinanet'])
def test_it_goes_with_a_teacher_method(family, at):
    student = h.FAMILIES[family]
    model = h.distiller(student(), student(), sfr=dict(type='mmkd.SFR'), pkd=dict(type='mmkd.PKD'))
    for p in model.distillation.teachers['teacher'].parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    at(0.9)
    losses = h.losses_of(model, family)
    assert losses['sfr/loss_features'].item() > 0
    assert losses['pkd/loss'].item() > 0


def test_the_terms_follow_the_progress_of_training():
    model = build()
    hub = MessageHub.get_instance('sfr')
    hub.update_info('max_iters', 10)
    hub.update_info('iter', 0)
    losses = h.losses_of(model, 'classifier')
    assert losses['sfr/loss_features'].item() == losses['sfr/loss_smoothing'].item() == 0
    hub.update_info('iter', 5)
    losses = h.losses_of(model, 'classifier')
    assert losses['sfr/loss_features'].item() > 0
    assert 0 < losses['sfr/rate'].item() <= 0.1
    hub.update_info('iter', 0)


# -- what is wrong --------------------------------------------------------------------------------


def no_head():
    cfg = h.classifier()
    cfg.head = None
    return cfg


def label_smooth_head():
    cfg = h.classifier()
    cfg.head.loss = dict(type='LabelSmoothLoss', label_smooth_val=0.1)
    return cfg


def multi_label():
    cfg = h.classifier()
    cfg.head = dict(type='MultiLabelLinearClsHead', num_classes=h.CLASSES, in_channels=64)
    return cfg


@pytest.mark.parametrize(
    ('student', 'options', 'words'),
    [
        ('classifier', dict(solver='sinkhron'), "solver='sinkhron'; nearest: 'sinkhorn'"),
        ('classifier', dict(pairing='adjacnt'), "pairing='adjacnt'; nearest: 'adjacent'"),
        ('classifier', dict(smoothing=1.5), 'SFR: smoothing=1.5; needed: a finite number in [0, 1)'),
        ('classifier', dict(smoothing='on'), "smoothing='on'; needed: a finite number in [0, 1), 'auto'"),
        ('classifier', dict(feature=-1), 'feature=-1: -1 is no weight; needed: a finite number >= 0'),
        ('classifier', dict(window=0), 'window=0; needed: a whole number >= 1'),
        ('classifier', dict(boxes='yes'), "boxes='yes'; needed: True or False"),
        ('classifier', dict(feature=0, smoothing=0), 'nothing is left to train'),
        ('classifier', dict(boxes=True), 'have no boxes; leave boxes out'),
        ('classifier', dict(tap=['backbone.layer4', 'backbone.layer2']), 'grow: [(4, 4), (16, 16)]'),
        ('classifier', dict(tap='backbone.layer4'), "a single level [(4, 4)] of the student at 'backbone.l"),
        ('classifier', dict(windw=7), "unknown option 'windw'; nearest: 'window'"),
        ('retinanet', dict(solver='exact', boxes=True), "solver='exact' takes positions that count alike"),
        ('retinanet', dict(smoothing=0.1), 'the dense head of RetinaNet has no loss of labels; needed'),
        ('segmentor', dict(smoothing=0.1), 'the pixel head of EncoderDecoder has no loss of labels'),
        (no_head, dict(smoothing=0.1), 'the vector head of ImageClassifier has no loss of labels'),
        (label_smooth_head, dict(smoothing=0.1), 'has the loss LabelSmoothLoss; needed: the mean softmax'),
        (multi_label, dict(smoothing=0.1), 'the vector head of ImageClassifier has the loss CrossEntropyLoss'),
        ('classifier', dict(tap='backbone.layer4'), "of the student at 'backbone.layer4'; needed: two or more"),
    ],
)  # fmt: skip
def test_wrong_input_is_answered(student, options, words):
    config = student() if callable(student) else h.FAMILIES[student]()
    with pytest.raises(InputError) as error:
        h.distiller(config, sfr=dict(type='mmkd.SFR', **options))
    assert words in str(error.value)


@pytest.mark.parametrize('student', [label_smooth_head, multi_label, h.retinanet, h.segmentor])
def test_other_heads_are_left_alone_by_default(student):
    assert build(student=student()).distillation.sfr.labels == []


@pytest.mark.parametrize(('size', 'window'), [(224, (7, 7)), (256, (4, 4)), (288, (5, 5))])
def test_windows_are_even_by_default(size, window, at):
    at(1.0)
    model = build(smoothing=0)
    data = model.data_preprocessor(h.raw_batch('classifier', sizes=((size, size),) * 2), True)
    *shallow, deepest = stages(model, data['inputs'])
    total = sum(transport_loss(map_, deepest, window).item() for map_ in shallow)
    losses = model(**data, mode='loss')
    assert losses['sfr/loss_features'].item() == pytest.approx(0.05 * total / 3, rel=1e-4)


def test_a_model_without_a_backbone_is_answered():
    with pytest.raises(InputError, match='Linear has no backbone; say where to read it with tap='):
        default_stages(torch.nn.Linear(1, 1))
    assert SFR().needs_teacher is False
