import copy
import random

import helpers as h
import numpy as np
import pytest
import torch

import mmkd
from mmkd import InputError
from mmkd.core.distiller import untouched_randomness

PKD = dict(type='mmkd.PKD')
KD = dict(type='mmkd.KD')


def test_it_is_its_student():
    model = h.distiller(h.retinanet(), h.retinanet(width=16), pkd=PKD)
    plain = h.build(h.retinanet())
    assert isinstance(model, mmkd.Distiller)
    assert isinstance(model, type(plain))
    assert model.bbox_head.num_classes == h.CLASSES
    assert model.with_neck
    own = [name for name in model.state_dict() if not name.startswith('distillation.')]
    assert own == list(plain.state_dict())
    assert [n for n, _ in model.named_parameters()][: len(list(plain.parameters()))] == [
        n for n, _ in plain.named_parameters()
    ]


def test_the_teacher_is_no_part_of_it():
    model = h.distiller(h.retinanet(), h.retinanet(width=16), pkd=PKD)
    teacher = model.distillation.teachers['teacher']
    owned = {id(p) for p in teacher.parameters()} | {id(b) for b in teacher.buffers()}
    reachable = {id(t) for t in (*model.parameters(), *model.buffers())}
    assert not owned & reachable
    assert not any(module is teacher for module in model.modules())
    extra = {n: p.shape for n, p in model.named_parameters() if n.startswith('distillation.')}
    assert extra == {}


def test_the_teacher_follows_to_another_number_format():
    model = h.distiller(h.retinanet(), h.retinanet(), pkd=PKD).double()
    assert {p.dtype for p in model.distillation.teachers['teacher'].parameters()} == {torch.float64}


@pytest.mark.parametrize('family', ['retinanet', 'faster_rcnn', 'classifier', 'segmentor', 'dino'])
def test_evaluation_equals_the_students_bit_for_bit(family):
    model = h.distiller(h.FAMILIES[family](), h.FAMILIES[family](), pkd=PKD).eval()
    plain = h.build(h.FAMILIES[family]()).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if 'distillation.' not in k})
    with torch.no_grad():
        ours, theirs = (m.test_step(h.raw_batch(family)) for m in (model, plain))
    for a, b in zip(ours, theirs):
        assert list(a.keys()) == list(b.keys())
        for key in list(a.keys()):
            values = [getattr(sample, key) for sample in (a, b)]
            tensors = [
                list(v.all_items()) if hasattr(v, 'all_items') else [(key, v)] for v in values
            ]
            for (_, x), (_, y) in zip(*tensors):
                assert torch.equal(torch.as_tensor(x), torch.as_tensor(y))


def test_a_deep_copy_is_a_plain_student():
    model = h.distiller(h.retinanet(), h.retinanet(width=16), pkd=PKD)
    twin = copy.deepcopy(model)
    assert type(twin) is type(h.build(h.retinanet()))
    state = {k: v for k, v in model.state_dict().items() if 'distillation.' not in k}
    assert twin.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in twin.state_dict().items())
    assert twin.backbone is not model.backbone


def test_building_leaves_every_random_generator_alone():
    def draws():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    def seed():
        torch.manual_seed(1), np.random.seed(1), random.seed(1)

    seed()
    with untouched_randomness():
        draws()
    after = draws()
    seed()
    assert draws() == after


def test_of_several_devices_only_the_own_is_put_back(monkeypatch):
    asked, put = [], []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 8)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 3)
    monkeypatch.setattr(torch.cuda, 'get_rng_state', lambda device: asked.append(device))
    monkeypatch.setattr(torch.cuda, 'set_rng_state', lambda state, device: put.append(device))
    with untouched_randomness():
        pass
    assert asked == put == [3]


def test_building_leaves_the_student_as_built():
    torch.manual_seed(0)
    plain = h.build(h.retinanet())
    model = h.distiller(h.retinanet(), h.retinanet(width=16), seed=0, pkd=PKD, kd=KD)
    state = model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in plain.state_dict().items())
    assert [m.training for m in plain.modules()] == [
        m.training for n, m in model.named_modules() if not n.startswith('distillation')
    ]


TEACHER = dict(config='t.py', checkpoint='untrained')


@pytest.mark.parametrize(
    ('teacher', 'methods', 'words'),
    [
        (None, dict(pkd=PKD), ['methods.pkd', 'needs a teacher', '--teacher']),
        (None, {}, ['methods', "dict(type='mmkd.PKD')"]),
        (None, dict(a=dict(type='mmkd.PDK')), ["'mmkd.PDK'", "'pkd'"]),
        (None, dict(a=dict(weight=1.0)), ['methods.a', 'type']),
        (None, dict(a=dict(type='mmkd.PKD', wieght=1.0)), ['methods.a', "'wieght'", "'weight'"]),
        (None, dict(a=dict(type='mmkd.PKD', weight=-1.0)), ['methods.a', '-1.0', '>= 0']),
        (None, dict(a=dict(type='mmkd.CWD', temperature=0.0)), ['methods.a', 'temperature=0.0']),
        (dict(checkpoint='x'), dict(a=PKD), ['config is missing']),
        (dict(config='x', precison='bf16'), dict(a=PKD), ["'precison'", "'precision'"]),
        ([1], dict(a=PKD), ['teacher: [1]', 'config']),
    ],
)
def test_wrong_configs_are_named(teacher, methods, words):
    with pytest.raises(InputError) as error:
        h.distiller(h.retinanet(), teacher, **methods)
    assert all(word in str(error.value) for word in words)
