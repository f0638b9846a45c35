"""From any config to a distillation config."""

import helpers as h
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

import mmkd
from mmkd import InputError
from mmkd.config.conversion import HOOK, plain_config
from mmkd.registry import MODELS

STUDENT = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
TEACHER = dict(teacher='t.py', checkpoint='t.pth')


def test_the_model_becomes_a_distiller_and_the_rest_stays():
    plain = mmkd.family.building.load_config(STUDENT)
    cfg = mmkd.distill(plain, 'pkd', **TEACHER)
    assert cfg.model.type == 'mmkd.Distiller'
    student = cfg.model.student.to_dict()
    assert student.pop('_scope_') == 'mmdet'
    assert student == plain.model.to_dict()
    assert cfg.model.teacher == dict(config='t.py', checkpoint='t.pth')
    changed = {'model', 'custom_imports', 'custom_hooks'}
    rest = {k: v for k, v in cfg.to_dict().items() if k not in changed}
    assert rest == {k: v for k, v in plain.to_dict().items() if k not in changed}
    assert plain.model.type == 'RetinaNet'


def test_methods_join_and_take_options():
    cfg = mmkd.distill(STUDENT, 'pkd+kd', **TEACHER, options=dict(pkd=dict(weight=2.0)))
    assert cfg.model.methods == dict(pkd=dict(type='mmkd.PKD', weight=2.0), kd=dict(type='mmkd.KD'))
    named = dict(fine=dict(type='mmkd.PKD', weight=1.0), coarse=dict(type='pkd'))
    cfg = mmkd.distill(STUDENT, named, **TEACHER)
    assert [m['type'] for m in cfg.model.methods.values()] == ['mmkd.PKD', 'mmkd.PKD']


def test_weights_stand_in_the_flag():
    cfg = mmkd.distill(
        STUDENT, 'pkd:3 + cross_kd + kd:auto', **TEACHER, options=dict(kd=dict(temperature=2.0))
    )
    assert cfg.model.methods == dict(
        pkd=dict(type='mmkd.PKD', weight=3.0), cross_kd=dict(type='mmkd.CrossKD'),
        kd=dict(type='mmkd.KD', weight='auto', temperature=2.0),
    )  # fmt: skip
    cfg = mmkd.distill(STUDENT, 'pkd:0.5', **TEACHER, options=dict(pkd=dict(tap='backbone')))
    assert cfg.model.methods.pkd == dict(type='mmkd.PKD', weight=0.5, tap='backbone')


def test_several_teachers():
    cfg = mmkd.distill(
        STUDENT,
        dict(pkd=dict(teacher='a'), kd=dict(teacher='b')),
        teacher=dict(a='a.py', b='b.py'),
        checkpoint=dict(a='a.pth', b='b.pth'),
        options=dict(teacher=dict(a=dict(precision='bf16'))),
    )
    assert cfg.model.teacher == dict(
        a=dict(config='a.py', checkpoint='a.pth', precision='bf16'),
        b=dict(config='b.py', checkpoint='b.pth'),
    )


def test_imports_and_hooks_are_added_to_those_that_are_there():
    base = mmkd.family.building.load_config(STUDENT)
    base.custom_imports = dict(imports=['mine'], allow_failed_imports=False)
    base.custom_hooks = [dict(type='NumClassCheckHook')]
    cfg = mmkd.distill(base, 'pkd', **TEACHER)
    assert cfg.custom_imports == dict(imports=['mmkd', 'mine'], allow_failed_imports=False)
    assert [hook['type'] for hook in cfg.custom_hooks] == ['NumClassCheckHook', HOOK]
    back = plain_config(cfg)
    assert back.model == base.model
    assert back.custom_imports == base.custom_imports
    assert back.custom_hooks == base.custom_hooks


def test_a_data_preprocessor_at_the_top_comes_along():
    cfg = mmkd.distill('mmpretrain::resnet/resnet18_8xb32_in1k.py', 'kd', **TEACHER)
    assert cfg.model.student.data_preprocessor.num_classes == 1000
    assert cfg.model.student._scope_ == 'mmpretrain'


def test_a_teacher_config_object_is_taken_with_its_model():
    teacher = mmkd.family.building.load_config('mmdet::retinanet/retinanet_r101_fpn_2x_coco.py')
    cfg = mmkd.distill(STUDENT, 'pkd', teacher=teacher, checkpoint='t.pth')
    assert cfg.model.teacher.config.backbone.depth == 101


def test_the_result_survives_a_round_trip_through_a_file(tmp_path):
    cfg = mmkd.distill(STUDENT, 'pkd+cwd', **TEACHER)
    cfg.dump(tmp_path / 'c.py')
    assert Config.fromfile(tmp_path / 'c.py').model == cfg.model


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        (dict(method='pdk', **TEACHER), ["unknown method 'pdk'", "'pkd'"]),
        (dict(method='pkd'), ['pkd needs a teacher', '--teacher']),
        (dict(method='pkd', checkpoint='t.pth'), ['t.pth', 'without a teacher']),
        (dict(method='pkd', **TEACHER, options=dict(kd=dict())), ["'kd'", "['pkd']"]),
        (dict(method=dict(pkd=dict(wait=1)), **TEACHER), ['methods.pkd', "'wait'"]),
        (dict(method='pkd', **TEACHER, options=dict(pkd=dict(weight=-1))), ['pkd', '-1']),
        (dict(method='pkd', **TEACHER, options=dict(pkd=3)), ['pkd=3', 'pkd.weight=2.0']),
        (dict(method='pkd', **TEACHER, options=dict(teacher=3)), ['teacher=3', 'options by name']),
        (dict(method=dict(pkd=3), **TEACHER), ['pkd=3']),
        (dict(method='pkd+pkd', **TEACHER), ["'pkd+pkd' names pkd twice", "a=dict(type='mmkd.PKD')"]),
        (dict(method='pkd+PKD', **TEACHER), ['names pkd twice']),
        (dict(method=['pkd'], **TEACHER), ["method=['pkd']"]),
        (dict(method='', **TEACHER), ["unknown method ''"]),
        (dict(method='pkd:', **TEACHER), ["'pkd:'", "the weight '' is no number", 'pkd:3+kd']),
        (dict(method='kd+pkd:much', **TEACHER), ["'pkd:much'", "'much' is no number"]),
        (dict(method='pkd:3:4', **TEACHER), ["'pkd:3:4'", "'3:4' is no number"]),
        (dict(method='pkd:weight=3', **TEACHER), ["'weight=3' is no number"]),
        (dict(method='pkd:-1', **TEACHER), ['methods.pkd', 'weight=-1.0']),
        (dict(method='pkd:nan', **TEACHER), ['methods.pkd', 'weight=nan']),
        (dict(method='pkd:inf', **TEACHER), ['methods.pkd', 'weight=inf']),
        (dict(method=':3', **TEACHER), ["unknown method ''"]),
        (dict(method='pkd:1+pkd:2', **TEACHER), ['names pkd twice']),
        (dict(method='pkd:3', **TEACHER, options=dict(pkd=dict(weight=2.0))),
         ['pkd.weight=2.0 beside pkd:3.0', 'leave one of them out']),
        (dict(method='kd', teacher=dict(a='a.py', b='b.py'), checkpoint='t.pth'),
         ["checkpoint='t.pth'", "['a', 'b']"]),
        (dict(method='kd', teacher=dict(a='a.py'), checkpoint=dict(b='t.pth')), ["'b'", "'a'"]),
        (dict(method='kd', teacher=dict(a='a.py'), options=dict(teacher=dict(c={}))), ["'c'", "'a'"]),
        (dict(method='kd', **TEACHER, options=dict(kd=dict(temperature='abc'))), ["temperature='abc'"]),
        (dict(method='kd', **TEACHER, options=dict(kd=dict(temperature=float('nan')))), ['nan']),
        (dict(method='dpk', **TEACHER, options=dict(dpk=dict(optimizer='SGD'))), ["optimizer='SGD'"]),
        (dict(method='fgd', **TEACHER, options=dict(fgd=dict(alpha='abc'))), ["alpha='abc'"]),
        (dict(method='pkd', **TEACHER, options=dict(pkd=dict(tap=[]))), ['tap', '[]']),
    ],
)  # fmt: skip
def test_wrong_calls_are_named(args, words):
    with pytest.raises(InputError) as error:
        mmkd.distill(STUDENT, **args)
    assert all(word in str(error.value) for word in words)


def test_a_distiller_is_not_distilled_again():
    cfg = mmkd.distill(STUDENT, 'pkd', **TEACHER)
    with pytest.raises(InputError, match='Distiller already'):
        mmkd.distill(cfg, 'kd', **TEACHER)


def test_a_teacher_for_self_methods_is_refused(monkeypatch):
    from mmkd.methods.pkd import PKD

    monkeypatch.setattr(PKD, 'needs_teacher', False)
    with pytest.raises(InputError, match='self-method and takes no teacher'):
        mmkd.distill(STUDENT, 'pkd', **TEACHER)


@pytest.mark.parametrize(
    ('source', 'size'),
    [
        ('mmpretrain::lenet/lenet5_mnist.py', 32),
        ('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', None),
    ],
)
def test_the_size_of_small_images_is_handed_on_for_dry_runs(source, size):
    cfg = mmkd.distill(source, 'pkd', teacher='t.py', checkpoint='t.pth')
    assert cfg.model.get('image_size') == size


def test_a_set_from_the_flag_trains_with_the_weights_in_it():
    plain, options = Config(dict(model=h.gfl())), dict(teacher=Config(dict(model=h.gfl())))
    losses = []
    for flag in ('pkd+ld', 'pkd:3+ld'):
        cfg = mmkd.distill(plain, flag, checkpoint='untrained', **options)
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope('mmkd'):
            model = h.freeze_statistics(MODELS.build(cfg.model))
        torch.manual_seed(0)
        model.init_weights()
        losses.append(h.losses_of(model, 'gfl'))
    usual, weighed = losses
    assert {name.partition('/')[0] for name in usual if '/' in name} == {'pkd', 'ld'}
    assert usual['pkd/loss'] > 0
    torch.testing.assert_close(weighed['pkd/loss'], usual['pkd/loss'] / 2)  # 6 by default
    for name in usual:
        if name.startswith('ld/'):
            assert torch.equal(usual[name], weighed[name])
