"""Soft logits for every kind of head, against formulas written here."""

import helpers as h
import numpy as np
import pytest
import torch
from scipy.special import expit, rel_entr, softmax

from mmkd import InputError, Tap
from mmkd.family.logits import LogitDivergence
from mmkd.family.taps import capture

KD = dict(type='mmkd.KD')


def both(family, teacher=None, **options):
    """A Distiller in eval mode with both sides' outputs, and its KD loss."""
    teacher = teacher or h.FAMILIES[family]()
    model = h.distiller(h.FAMILIES[family](), teacher, kd=dict(**KD, **options)).eval()
    batch = model.data_preprocessor(h.raw_batch(family), True)
    return model, model.distillation.teachers['teacher'].model, batch


def outputs(model, place, batch, mode='tensor'):
    with torch.no_grad(), capture(model, [(place, 'output')]) as features:
        model(batch['inputs'], batch['data_samples'], mode=mode)
    return features.calls(Tap(place))


def rows(levels, classes):
    """Dense logits as [anchors, classes], by plain loops."""
    result = []
    for level in levels:
        images, channels, height, width = level.shape
        array = level.numpy().reshape(images, channels // classes, classes, height, width)
        result.append(array.transpose(0, 3, 4, 1, 2).reshape(-1, classes))
    return np.concatenate(result).astype(np.float64)


def test_classification_is_hinton():
    model, teacher, batch = both('classifier', h.classifier(16), temperature=4.0, weight=0.5)
    s, t = (outputs(m, 'head', batch)[0].numpy() for m in (model, teacher))
    expected = rel_entr(softmax(t / 4, 1), softmax(s / 4, 1)).sum(1).mean() * 16 * 0.5
    got = h.losses_of(model, 'classifier')['kd/loss'].item()
    assert got == pytest.approx(expected, abs=1e-6)


def test_multi_label_classification_is_binary():
    def config(width):
        cfg = h.classifier(width)
        cfg.head = dict(
            type='MultiLabelLinearClsHead', num_classes=h.CLASSES, in_channels=8 * width,
            loss=dict(type='CrossEntropyLoss', use_sigmoid=True),
        )  # fmt: skip
        return cfg

    model = h.distiller(config(8), config(16), kd=dict(**KD, temperature=1.0)).eval()
    batch = model.data_preprocessor(h.raw_batch('classifier'), True)
    teacher = model.distillation.teachers['teacher'].model
    s, t = (expit(outputs(m, 'head', batch)[0].numpy()) for m in (model, teacher))
    expected = (rel_entr(t, s) + rel_entr(1 - t, 1 - s)).sum(1).mean()
    assert h.losses_of(model, 'classifier')['kd/loss'].item() == pytest.approx(expected, abs=1e-6)


def test_segmentation_is_the_mean_over_pixels():
    model, teacher, batch = both('segmentor')
    s, t = (outputs(m, 'decode_head', batch)[0].numpy() for m in (model, teacher))
    expected = rel_entr(softmax(t, 1), softmax(s, 1)).sum(1).mean()
    got = h.losses_of(model, 'segmentor')['kd/loss'].item()
    assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('family', ['retinanet', 'gfl'])
def test_sigmoid_detection_heads_are_normalised_by_expected_objects(family):
    model, teacher, batch = both(family)
    s, t = (expit(rows(outputs(m, 'bbox_head', batch)[0][0], h.CLASSES)) for m in (model, teacher))
    divergence = (rel_entr(t, s) + rel_entr(1 - t, 1 - s)).sum()
    expected = divergence / max(1.0, t.max(1).sum())
    got = h.losses_of(model, family)['kd/loss'].item()
    assert got == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_softmax_detection_heads_leave_the_background_out_of_the_normaliser():
    model, teacher, batch = both('softmax')
    s, t = (
        softmax(rows(outputs(m, 'bbox_head', batch)[0][0], h.CLASSES + 1), 1)
        for m in (model, teacher)
    )
    expected = rel_entr(t, s).sum() / max(1.0, t[:, :-1].max(1).sum())
    got = h.losses_of(model, 'softmax')['kd/loss'].item()
    assert got == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize('family', ['faster_rcnn', 'cascade_rcnn'])
def test_two_stage_teachers_score_the_students_boxes(family):
    model, teacher, batch = both(family)
    torch.manual_seed(3)
    loss = model(**batch, mode='loss')['kd/loss'].item()
    stages = [''] if family == 'faster_rcnn' else ['.0', '.1', '.2']
    total, count = 0.0, 0
    torch.manual_seed(3)
    places = [(f'roi_head.bbox_roi_extractor{s}', 'input') for s in stages]
    places += [(f'roi_head.bbox_head{s}', 'output') for s in stages]
    model.distillation.forward = lambda student, task, *args: task()
    with torch.no_grad(), capture(model, places) as features:
        model(**batch, mode='loss')
    for index, stage in enumerate(stages):
        boxes = features.calls(Tap(f'roi_head.bbox_roi_extractor{stage}', source='input'))[0][1]
        s = features.calls(Tap(f'roi_head.bbox_head{stage}'))[0][0]
        with torch.no_grad():
            maps = teacher.extract_feat(batch['inputs'])
            prefix = () if stage == '' else (index,)
            t = teacher.roi_head._bbox_forward(*prefix, maps, boxes)['cls_score']
        total += rel_entr(softmax(t.numpy(), 1), softmax(s.numpy(), 1)).sum()
        count += len(s)
    assert count > 10
    assert loss == pytest.approx(total / count, rel=1e-4, abs=1e-7)


def test_query_detectors_leave_denoising_out(monkeypatch):
    model, _, _ = both('dino')
    model.train()
    compared, compare = [], LogitDivergence.__call__
    monkeypatch.setattr(
        LogitDivergence, '__call__', lambda *args: (compared.append(args), compare(*args))[1]
    )
    losses = h.losses_of(model, 'dino')
    assert any(name.startswith('dn_loss') for name in losses)
    divergence, ours, theirs = compared[-1]
    assert ours[0].shape[2] > theirs[0].shape[2] == 30
    expected = compare(divergence, [values[:, :, -30:] for values in ours], theirs)
    torch.testing.assert_close(losses['kd/loss'], expected)


def test_a_student_that_answers_like_its_teacher_has_no_loss():
    for family in ('classifier', 'retinanet'):
        config = h.FAMILIES[family]()
        model = h.distiller(config, config, kd=KD).eval()
        model.distillation.check_gradients = False
        state = {k: v for k, v in model.state_dict().items() if 'distillation.' not in k}
        model.distillation.teachers['teacher'].model.load_state_dict(state)
        assert h.losses_of(model, family)['kd/loss'].item() == pytest.approx(0, abs=1e-5)


def with_classes(config, count):
    head = (
        config.roi_head.bbox_head
        if 'roi_head' in config
        else config.get('bbox_head', config.get('head'))
    )
    head.num_classes = count
    return config


@pytest.mark.parametrize('family', ['classifier', 'retinanet', 'faster_rcnn', 'dino'])
def test_a_class_count_that_differs_is_named(family):
    teacher = with_classes(h.FAMILIES[family](), 7)
    with pytest.raises(InputError, match=r'class count mismatch: the student has 4.*the teacher 7'):
        h.distiller(h.FAMILIES[family](), teacher, kd=KD)


@pytest.mark.parametrize(
    ('student', 'teacher', 'words'),
    [
        (h.retinanet, h.ssd_like, ['sigmoid head', 'softmax head', 'pkd']),
        (h.retinanet, h.faster_rcnn, ["'dense'", "'roi'", 'pkd']),
        (h.retinanet, h.gfl, ["'bbox_head' level 0", '(1, 36, ', '(1, 4, ', 'anchors']),
        (h.faster_rcnn, h.cascade_rcnn, ['1 levels', '3']),
    ],
)
def test_heads_that_do_not_compare_are_named(student, teacher, words):
    with pytest.raises(InputError) as error:
        h.distiller(student(), teacher(), kd=KD)
    assert all(word in str(error.value) for word in words)


def test_temperature_must_be_positive():
    with pytest.raises(InputError, match=r'methods\.kd: KD: temperature=-1'):
        h.distiller(h.classifier(), h.classifier(), kd=dict(**KD, temperature=-1))


def test_standardised_logits_are_compared_by_pattern():
    model, teacher, batch = both('classifier', h.classifier(16), standardize=True)
    sides = [outputs(m, 'head', batch)[0].double().numpy() for m in (model, teacher)]
    s, t = ((z - z.mean(1, keepdims=True)) / z.std(1, ddof=1, keepdims=True) for z in sides)
    expected = 4 * rel_entr(softmax(t / 2, 1), softmax(s / 2, 1)).sum(1).mean()
    got = h.losses_of(model, 'classifier')['kd/loss'].item()
    assert got == pytest.approx(expected, rel=1e-3)


def test_sigmoid_heads_are_not_standardised():
    with pytest.raises(
        InputError, match=r'KD: standardize=True is for softmax classes, RetinaHead'
    ):
        h.distiller(h.retinanet(), h.retinanet(), kd=dict(**KD, standardize=True))


@pytest.mark.parametrize('config', [h.mask_rcnn, h.cascade_mask_rcnn])
def test_the_teacher_draws_masks_on_the_boxes_of_the_students_objects(config):
    model = h.distiller(config(), config(), kd=KD).eval()
    teacher = model.distillation.teachers['teacher'].model
    batch = model.data_preprocessor(h.raw_batch('mask_rcnn'), True)
    torch.manual_seed(3)
    losses = model(**batch, mode='loss')
    stages = [''] if config is h.mask_rcnn else ['.0', '.1', '.2']
    places = [(f'roi_head.mask_roi_extractor{s}', 'input') for s in stages]
    places += [(f'roi_head.mask_head{s}', 'output') for s in stages]
    places += [(f'roi_head.mask_head{s}.loss_mask', 'input') for s in stages]
    model.distillation.forward = lambda student, task, *args: task()
    torch.manual_seed(3)
    with torch.no_grad(), capture(model, places) as features:
        model(**batch, mode='loss')
    total, pixels = 0.0, 0
    for index, stage in enumerate(stages):
        boxes = features.calls(Tap(f'roi_head.mask_roi_extractor{stage}', source='input'))[0][1]
        masks = features.calls(Tap(f'roi_head.mask_head{stage}'))[0].numpy()
        loss = Tap(f'roi_head.mask_head{stage}.loss_mask', source='input')
        classes = features.calls(loss)[0][2].tolist()
        with torch.no_grad():
            prefix = () if stage == '' else (index,)
            maps = teacher.extract_feat(batch['inputs'])
            theirs = teacher.roi_head._mask_forward(*prefix, maps, boxes)['mask_preds'].numpy()
        for box, kind in enumerate(classes):
            s, t = (expit(side[box, kind].astype(np.float64)) for side in (masks, theirs))
            total += (rel_entr(t, s) + rel_entr(1 - t, 1 - s)).sum()
            pixels += s.size
    assert pixels > 6 * 28 * 28
    assert losses['kd/loss_masks'].item() == pytest.approx(total / pixels, rel=1e-4)
    assert losses['kd/loss'].item() > 0


def test_masks_can_be_left_out_and_are_asked_for_where_there_are_some():
    model = h.distiller(h.mask_rcnn(), h.mask_rcnn(), kd=dict(**KD, masks=False))
    assert 'kd/loss_masks' not in h.losses_of(model, 'mask_rcnn')
    model = h.distiller(h.mask_rcnn(), h.faster_rcnn(), kd=KD)
    assert 'kd/loss_masks' not in h.losses_of(model, 'mask_rcnn')
    with pytest.raises(
        InputError, match=r'KD: masks=True: the teacher \(FasterRCNN\) has no FCN mask'
    ):
        h.distiller(h.mask_rcnn(), h.faster_rcnn(), kd=dict(**KD, masks=True))
    with pytest.raises(InputError, match=r'masks=True: the student \(RetinaNet\).*SOLOv2'):
        h.distiller(h.retinanet(), h.retinanet(), kd=dict(**KD, masks=True))
