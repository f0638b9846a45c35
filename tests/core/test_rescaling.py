"""A teacher of another resolution: what it is given, which levels compare, and who cannot do with it."""

import helpers as h
import numpy as np
import pytest
import torch
from scipy.special import expit, rel_entr, softmax

from mmkd import InputError, Tap
from mmkd.commands.methods import known_methods
from mmkd.core.rescaling import Rescale
from mmkd.family.taps import capture

OURS = {n: kind for n, kind in known_methods().items() if kind.__module__.startswith('mmkd.')}
TAUGHT = sorted(name for name, kind in OURS.items() if kind.needs_teacher)
FAMILIES = ('classifier', 'gfl', 'segmentor')
OPTIONS = dict(crd=dict(images=8))


def taught(family, scale=None, **methods):
    options = {} if scale is None else dict(scale=scale)
    teacher = dict(config=h.FAMILIES[family](), checkpoint='untrained', **options)
    return h.distiller(h.FAMILIES[family](), teacher, **methods)


def test_twice_the_pixels_and_half_the_stride_weigh_neighbours_by_one_six_one():
    """Bilinear doubling, then the mean of two: an analytic filter."""
    row = torch.tensor([1.0, 5.0, 2.0, 8.0, 3.0, 7.0])
    image = row.repeat(6, 1)[None, None]
    doubled, _, _ = Rescale(2.0)(image, None, None)
    assert doubled.shape == (1, 1, 12, 12)
    pooled = torch.nn.functional.avg_pool2d(doubled, 2)[0, 0, 3]
    expected = (row[:-2] + 6 * row[1:-1] + row[2:]) / 8
    torch.testing.assert_close(pooled[1:-1], expected)
    weights = torch.randn(4, 1, 1, 1)
    after = torch.nn.functional.conv2d(doubled, weights)
    before, _, _ = Rescale(2.0)(torch.nn.functional.conv2d(image, weights), None, None)
    torch.testing.assert_close(after, before)


def test_samples_and_boxes_follow_and_the_students_stay():
    from mmdet.structures import DetDataSample

    sample = DetDataSample(metainfo=dict(img_shape=(40, 60), batch_input_shape=(64, 64)))
    rois = {('bbox', None): torch.tensor([[1.0, 4.0, 8.0, 12.0, 16.0]])}
    images, (twin,), boxes = Rescale(1.5, 32)(torch.zeros(1, 3, 64, 128), [sample], rois)
    assert images.shape[-2:] == (96, 192)
    assert (twin.img_shape, twin.batch_input_shape) == ((60, 90), (96, 96))
    assert (sample.img_shape, sample.batch_input_shape) == ((40, 60), (64, 64))
    assert boxes['bbox', None].tolist() == [[1.0, 6.0, 12.0, 18.0, 24.0]]
    assert rois['bbox', None][0, 1] == 4


@pytest.mark.parametrize('family', [*FAMILIES, 'faster_rcnn'])
def test_a_scale_of_one_is_none(family):
    losses = []
    for scale in (None, 1.0):
        model = taught(family, scale, kd=dict(type='mmkd.KD'), pkd=dict(type='mmkd.PKD'))
        torch.manual_seed(4)
        losses.append(h.losses_of(model, family))
    for name in ('kd/loss', 'pkd/loss'):
        assert torch.equal(losses[0][name], losses[1][name])
        assert losses[0][name] > 0


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('name', TAUGHT)
def test_every_method_takes_it_or_says_why_not(name, family):
    how = {name: dict(type=f'mmkd.{OURS[name].__name__}', **OPTIONS.get(name, {}))}
    try:
        taught(family, **how)
    except InputError:
        return  # not for this task whatever the scale
    if not OURS[name].scaled:
        said = h.message_of(lambda: taught(family, 1.5, **how))
        assert said.startswith(f'methods.{name}: {OURS[name].__name__} compares answers place')
        assert said.endswith('scale=1.5; kd and the feature methods (pkd, cwd, fitnet) take it')
        return
    model = taught(family, 1.5, **how)
    model.distillation.optimizers_installed = True  # DPK's
    losses = h.losses_of(model, family)
    terms = [value for key, value in losses.items() if key.startswith(f'{name}/loss')]
    assert terms
    total = sum(terms)
    assert total.isfinite()
    assert total > 0
    total.backward()


def test_levels_are_paired_by_their_strides_in_the_students_pixels():
    model = taught('retinanet', 2.0, pkd=dict(type='mmkd.PKD'))
    method = model.distillation.pkd
    assert [tap.levels for tap in method.student_taps] == [(i,) for i in range(4)]
    assert [tap.levels for tap in method.teacher_taps] == [(i + 1,) for i in range(4)]
    seen, pairs = [], method.raw_pairs
    method.raw_pairs = lambda step: seen.extend(pairs(step)) or pairs(step)
    h.losses_of(model, 'retinanet', sizes=((128, 128),))
    assert [s.shape[-1] for s, _ in seen] == [16, 8, 4, 2]
    assert all(s.shape == t.shape for s, t in seen)


def outputs(model, place, inputs):
    with torch.no_grad(), capture(model, [(place, 'output')]) as features:
        model(inputs, None, mode='tensor')
    return features.calls(Tap(place))[0]


def rows(level):
    images, channels, height, width = level.shape
    array = level.numpy().reshape(images, channels // h.CLASSES, h.CLASSES, height, width)
    return array.transpose(0, 3, 4, 1, 2).reshape(-1, h.CLASSES).astype(np.float64)


def test_dense_logits_of_twice_the_size_are_those_of_the_next_level():
    model = taught('retinanet', 2.0, kd=dict(type='mmkd.KD')).eval()
    teacher = model.distillation.teachers['teacher'].model
    batch = model.data_preprocessor(h.raw_batch('retinanet', sizes=((128, 128),) * 2), True)
    large = torch.nn.functional.interpolate(batch['inputs'], scale_factor=2, mode='bilinear')
    ours = outputs(model, 'bbox_head', batch['inputs'])[0][:4]
    theirs = outputs(teacher, 'bbox_head', large)[0][1:]
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    s, t = (expit(np.concatenate([rows(level) for level in side])) for side in (ours, theirs))
    expected = (rel_entr(t, s) + rel_entr(1 - t, 1 - s)).sum() / max(1.0, t.max(1).sum())
    got = model(**batch, mode='loss')['kd/loss'].item()
    assert got == pytest.approx(expected, rel=1e-4)


def test_logits_of_a_segmentor_come_back_to_the_students_pixels():
    model = taught('segmentor', 1.5, kd=dict(type='mmkd.KD')).eval()
    teacher = model.distillation.teachers['teacher'].model
    batch = model.data_preprocessor(h.raw_batch('segmentor'), True)
    large = torch.nn.functional.interpolate(batch['inputs'], (96, 96), mode='bilinear')
    s, t = (outputs(m, 'decode_head', x) for m, x in ((model, batch['inputs']), (teacher, large)))
    assert t.shape[-1] > s.shape[-1]
    t = torch.nn.functional.interpolate(t, s.shape[-2:], mode='bilinear').numpy()
    expected = rel_entr(softmax(t, 1), softmax(s.numpy(), 1)).sum(1).mean()
    got = model(**batch, mode='loss')['kd/loss'].item()
    assert got == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_a_roi_head_scores_the_students_boxes_in_its_own_pixels():
    model = taught('faster_rcnn', 2.0, kd=dict(type='mmkd.KD')).eval()
    teacher = model.distillation.teachers['teacher'].model
    batch = model.data_preprocessor(h.raw_batch('faster_rcnn', sizes=((64, 96), (48, 80))), True)
    torch.manual_seed(3)
    got = model(**batch, mode='loss')['kd/loss'].item()
    boxes, logits = Tap('roi_head.bbox_roi_extractor', source='input'), Tap('roi_head.bbox_head')
    model.distillation.forward = lambda student, task, *args: task()
    torch.manual_seed(3)
    with torch.no_grad(), capture(model, [boxes.place, logits.place]) as features:
        model(**batch, mode='loss')
        large = torch.nn.functional.interpolate(batch['inputs'], scale_factor=2, mode='bilinear')
        rois = features.calls(boxes)[0][1] * torch.tensor([1.0, 2, 2, 2, 2])
        t = teacher.roi_head._bbox_forward(teacher.extract_feat(large), rois)['cls_score']
    s = features.calls(logits)[0][0]
    expected = rel_entr(softmax(t.numpy(), 1), softmax(s.numpy(), 1)).sum(1).mean()
    assert got == pytest.approx(expected, rel=1e-4)


def test_a_query_teacher_is_told_the_size_of_its_images():
    model = taught('deformable_detr', 1.5, kd=dict(type='mmkd.KD'))
    loss = h.losses_of(model, 'deformable_detr')['kd/loss']
    assert loss.isfinite()
    assert loss > 0


def test_what_is_no_scale_is_answered():
    with pytest.raises(InputError, match=r'teacher: scale=0.*above 0'):
        taught('classifier', 0.0, kd=dict(type='mmkd.KD'))
