"""What a checkpoint was trained with, and how another training is named."""

import copy

import helpers as h
import pytest
from torch import nn

from mmkd.files.checkpoints import hash_of
from mmkd.training.manifest import ORIGINS, flat, manifest, refuse_other_training

KD = dict(type='mmkd.KD', temperature=2.0)


def distillation():
    """A Distiller and its config, with all that says where weights come from."""
    student, teacher = h.classifier(), h.classifier(16)
    student.backbone.init_cfg = dict(type='Pretrained', checkpoint='s.pth')
    config = dict(
        student=student, methods=dict(kd=KD), teacher=dict(config=teacher, checkpoint='t.pth')
    )
    return h.distiller(h.classifier(), teacher, kd=KD), config


def test_it_has_options_of_student_and_methods_and_a_hash_of_each_teacher():
    model, config = distillation()
    found = manifest(model, config)
    assert found['methods.kd.temperature'] == '2.0'
    assert found['student.backbone.base_channels'] == '8'
    teachers = {key: value for key, value in found.items() if key.startswith('teacher')}
    network = model.distillation.teachers['teacher'].model
    assert teachers == {"teacher 'teacher' (weights)": hash_of(network)}
    assert not [key for key in found if ORIGINS & set(key.split('.'))]
    assert all(isinstance(value, str) for value in found.values())


def test_where_weights_come_from_does_not_matter_and_what_they_are_does():
    model, config = distillation()
    other = copy.deepcopy(config)
    other['student'].backbone.init_cfg.checkpoint = 'elsewhere.pth'
    other['teacher']['checkpoint'] = 'elsewhere.pth'
    assert manifest(model, other) == manifest(model, config)
    before = manifest(model, config)
    network = model.distillation.teachers['teacher'].model
    nn.init.constant_(network.head.fc.bias, 1.0)
    with pytest.raises(ValueError, match=r"teacher 'teacher' \(weights\) is \w{16} in the checkp"):
        refuse_other_training(before, manifest(model, config))


def test_a_nest_is_flat_in_dotted_keys():
    nest = dict(a=[1, dict(b=2)], c=(), d={}, e=dict(f=dict(g=None)))
    assert flat(nest) == {'a.0': 1, 'a.1.b': 2, 'e.f.g': None}


def test_every_difference_is_named_and_more_than_five_are_counted():
    theirs = {f'methods.kd.o{i}': '1' for i in range(7)}
    text = h.message_of(refuse_other_training, theirs, {**theirs, 'methods.kd.o0': '2'})
    assert 'another training: methods.kd.o0 is 1 in the checkpoint and 2 in the config;' in text
    text = h.message_of(refuse_other_training, theirs, {'methods.at.p': '3'})
    assert 'methods.kd.o4 is 1 in the checkpoint and absent in the config and 3 more;' in text
    text = h.message_of(refuse_other_training, {}, {'methods.at.p': '3'})
    assert 'methods.at.p is absent in the checkpoint and 3 in the config' in text
    assert text.endswith('load_from=CHECKPOINT for its weights alone')


def test_a_checkpoint_without_one_is_of_no_distillation():
    text = h.message_of(refuse_other_training, None, {})
    assert 'is of a training without distillation; load_from=CHECKPOINT' in text
