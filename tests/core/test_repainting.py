"""The teacher's taps are those that it has when it preprocesses the images itself."""

import helpers as h
import pytest
import torch

from mmkd import InputError, Tap, Teacher
from mmkd.core.repainting import Pixels, Repaint

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0])
PIXELS = {
    'rgb': dict(**IMAGENET, bgr_to_rgb=True),
    'caffe': dict(**CAFFE, bgr_to_rgb=False),
    '0-1': dict(mean=[0.0] * 3, std=[255.0] * 3, bgr_to_rgb=True),
    '0-255': dict(mean=None, std=None, bgr_to_rgb=False),
    'padded': dict(**IMAGENET, bgr_to_rgb=True, pad_value=0.7),
}


def detector(pixels):
    config = h.retinanet()
    config.data_preprocessor = dict(
        type='DetDataPreprocessor', pad_size_divisor=32, **PIXELS[pixels]
    )
    return config


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [('rgb', 'caffe'), ('caffe', 'rgb'), ('0-1', '0-255'), ('0-255', '0-1'), ('rgb', 'padded')],
)
def test_detector_taps_agree_with_its_own_preprocessing(student, teacher):
    taps = [Tap('neck'), Tap('bbox_head')]
    guide = Teacher(detector(teacher), 'untrained')
    guide.learn_input(h.build(detector(student)))
    guide.probe(taps)
    seen = h.build(detector(student)).data_preprocessor(h.raw_batch('retinanet'), True)
    own = guide.model.data_preprocessor(h.raw_batch('retinanet'), True)
    answers = guide.observe(**{'inputs': seen['inputs'], 'samples': seen['data_samples']})
    assert not torch.allclose(seen['inputs'], own['inputs'])
    with torch.no_grad():
        expected = guide.model(own['inputs'], own['data_samples'], mode='tensor')
    expected = [level for part in expected for level in part]
    for got, want in zip(answers[Tap('bbox_head')], expected):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    for got, want in zip(answers[Tap('neck')], guide.model.extract_feat(own['inputs'])):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('family', ['classifier', 'segmentor'])
def test_other_tasks_agree_too(family):
    def config(**pixels):
        cfg = h.FAMILIES[family]()
        cfg.data_preprocessor.update(pixels)
        return cfg

    order = 'to_rgb' if family == 'classifier' else 'bgr_to_rgb'
    student = h.build(config(**IMAGENET, **{order: True}))
    guide = Teacher(config(**CAFFE, **{order: False}), 'untrained')
    guide.learn_input(student)
    seen = student.data_preprocessor(h.raw_batch(family), True)
    own = guide.model.data_preprocessor(h.raw_batch(family), True)
    repainted = guide.repaint(seen['inputs'], seen['data_samples'])
    torch.testing.assert_close(repainted, own['inputs'], rtol=1e-5, atol=1e-3)


def test_segmentation_padding_becomes_the_teachers():
    config = h.segmentor()
    config.data_preprocessor.update(size=(80, 80), pad_val=0.0)
    student = h.build(config)
    config.data_preprocessor.update(mean=[0.0] * 3, std=[1.0] * 3, bgr_to_rgb=False, pad_val=9.0)
    guide = Teacher(config, 'untrained')
    guide.learn_input(student)
    seen = student.data_preprocessor(h.raw_batch('segmentor'), True)
    own = guide.model.data_preprocessor(h.raw_batch('segmentor'), True)
    assert own['inputs'].shape[-1] == 80
    repainted = guide.repaint(seen['inputs'], seen['data_samples'])
    torch.testing.assert_close(repainted, own['inputs'], rtol=1e-5, atol=1e-3)


def test_the_same_pixels_are_handed_on_untouched():
    same = Pixels((1.0,), (2.0,), True, 0.0)
    batch = torch.rand(1, 3, 4, 4)
    assert Repaint(same, same)(batch) is batch


def test_the_students_batch_is_not_changed():
    batch = torch.rand(2, 3, 4, 4)
    kept = batch.clone()
    Repaint(Pixels((0.0,), (1.0,), False, 0.0), Pixels((0.0,), (1.0,), False, 5.0))(batch, [])
    assert torch.equal(batch, kept)


def test_an_unknown_preprocessor_is_named():
    model = h.build(h.retinanet())
    model.data_preprocessor = torch.nn.Identity()
    guide = Teacher(h.retinanet(), 'untrained')
    with pytest.raises(InputError, match=r"the student.*Identity.*inputs='student'"):
        guide.learn_input(model)
    Teacher(h.retinanet(), 'untrained', inputs='student').learn_input(model)
