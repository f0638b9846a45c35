"""What a Distiller adds to its student: which teachers run, what is trained, checked and refused."""

import copy

import helpers as h
import pytest
import torch
from mmengine.logging import MessageHub
from torch import nn

from mmkd import InputError
from mmkd.core.engine import _of_images
from mmkd.core.method import FeatureMethod

PKD = dict(type='mmkd.PKD')
KD = dict(type='mmkd.KD')


class Scaled(FeatureMethod):
    """A feature distance whose gradient can be cut or blown up."""

    def __init__(self, factor=1.0, detach=False, **options):
        super().__init__(**options)
        self.factor, self.detach = factor, detach

    def distance(self, student, teacher):
        student = student.detach() if self.detach else student
        return ((student - teacher) * self.factor).square().mean()


def train(model, family, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    for _ in range(steps):
        loss, _ = model.parse_losses(h.losses_of(model, family))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {k: v.clone() for k, v in model.state_dict().items() if 'distillation.' not in k}


@pytest.mark.parametrize('family', ['classifier', 'retinanet', 'faster_rcnn', 'dino', 'segmentor'])
def test_at_weight_zero_training_is_the_students_and_no_teacher_runs(family):
    torch.manual_seed(0)
    plain = h.build(h.FAMILIES[family]())
    expected = train(plain, family)
    model = h.distiller(
        h.FAMILIES[family](),
        h.FAMILIES[family](),
        seed=0,
        fitnet=dict(type='mmkd.FitNet', weight=0),
    )
    teacher = model.distillation.teachers['teacher']
    teacher.observe = lambda *args, **kwargs: pytest.fail('the teacher ran')
    got = train(model, family)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_distillation_changes_training_but_not_the_teacher():
    model = h.distiller(h.retinanet(), h.retinanet(width=16), pkd=PKD, kd=KD)
    teacher = model.distillation.teachers['teacher']
    before = copy.deepcopy(teacher.state_dict())
    torch.manual_seed(0)
    plain = train(h.build(h.retinanet()), 'retinanet')
    got = train(model, 'retinanet')
    assert any(not torch.equal(got[name], plain[name]) for name in plain)
    after = teacher.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_sum_of_all_terms_is_trained_and_statistics_are_logged():
    class Talking(Scaled):
        def forward(self, step):
            return {**super().forward(step), 'gap': step.student.tensors()[0].mean()}

    model = h.distiller(h.retinanet(), h.retinanet(), talking=dict(type=Talking, weight=3.0))
    losses = h.losses_of(model, 'retinanet')
    total, log = model.parse_losses(losses)
    parts = sum(value for name, value in log.items() if 'loss' in name and name != 'loss')
    torch.testing.assert_close(total, parts)
    assert not losses['talking/gap'].requires_grad
    single = h.distiller(h.retinanet(), h.retinanet(), talking=dict(type=Talking, weight=1.0))
    one = h.losses_of(single, 'retinanet')['talking/loss']
    torch.testing.assert_close(losses['talking/loss'], 3 * one)


def test_a_schedule_switches_a_method_and_its_teacher_on():
    ramp = dict(type='Ramp', value=2.0, begin=0.5, until=1.0)
    model = h.distiller(h.retinanet(), h.retinanet(width=16), pkd=dict(**PKD, weight=ramp))
    hub = MessageHub.get_instance('schedule')
    hub.update_info('max_iters', 10)
    values = {}
    for iteration in (0, 5, 7, 10):
        hub.update_info('iter', iteration)
        values[iteration] = h.losses_of(model, 'retinanet').get('pkd/loss')
    hub.update_info('max_iters', 0)
    assert values[0] is None
    assert values[5] is None
    torch.testing.assert_close(values[10] * 0.4, values[7])


def test_each_method_listens_to_its_teacher():
    teachers = dict(
        wide=dict(config=h.retinanet(width=16), checkpoint='untrained'),
        thin=dict(config=h.retinanet(), checkpoint='untrained'),
    )
    model = h.distiller(
        h.retinanet(),
        teachers,
        a=dict(**PKD, teacher='wide'),
        b=dict(**PKD, teacher='thin', weight=0.0),
        c=dict(type='mmkd.FitNet', teacher='wide', tap='backbone.layer4', weight=1.0),
    )
    asked = []
    for name, teacher in model.distillation.teachers.items():
        observe = teacher.observe
        teacher.observe = lambda *args, name=name, observe=observe: (
            asked.append(name), observe(*args),
        )[1]  # fmt: skip
    losses = h.losses_of(model, 'retinanet')
    assert asked == ['wide']
    assert {'a/loss', 'c/loss'} <= set(losses)
    assert 'b/loss' not in losses


def test_a_term_that_does_not_reach_the_student_stops_training():
    scaled = dict(type=Scaled, detach=True)
    model = h.distiller(h.retinanet(), h.retinanet(width=16), scaled=scaled)
    with pytest.raises(InputError, match=r'scaled/loss: its gradient does not reach the student'):
        h.losses_of(model, 'retinanet')


def test_a_tap_in_a_frozen_part_stops_training():
    frozen = dict(type='mmkd.FitNet', tap='backbone.layer1')
    config = h.retinanet(frozen_stages=1)
    model = h.distiller(config, h.retinanet(width=16), fitnet=frozen)
    model.train()
    with pytest.raises(InputError, match=r'fitnet/loss: its gradient does not reach'):
        h.losses_of(model, 'retinanet')


def test_a_term_is_checked_when_it_starts():
    late = dict(type='Ramp', value=1.0, begin=0.5, until=1.0)
    scaled = dict(type=Scaled, detach=True, weight=late)
    model = h.distiller(h.retinanet(), h.retinanet(width=16), scaled=scaled)
    hub = MessageHub.get_instance('late')
    hub.update_info('max_iters', 10)
    hub.update_info('iter', 0)
    h.losses_of(model, 'retinanet')
    hub.update_info('iter', 8)
    with pytest.raises(InputError, match='scaled/loss'):
        h.losses_of(model, 'retinanet')
    hub.update_info('max_iters', 0)


def test_a_term_that_is_not_finite_is_named():
    model = h.distiller(
        h.retinanet(), h.retinanet(), pkd=PKD, scaled=dict(type=Scaled, factor=1e30)
    )
    with pytest.raises(FloatingPointError, match=r'^not finite: scaled/loss = inf$'):
        h.losses_of(model, 'retinanet')


def test_a_student_loss_that_is_not_finite_is_named():
    model = h.distiller(h.retinanet(), h.retinanet(), pkd=PKD)
    nn.init.constant_(model.bbox_head.retina_reg.bias, float('nan'))
    with pytest.raises(FloatingPointError, match=r'^not finite: loss_bbox = nan$'):
        h.losses_of(model, 'retinanet')


def test_under_autocast_the_methods_compute_in_single_precision():
    seen = []

    class Looking(Scaled):
        def distance(self, student, teacher):
            seen.append((student.dtype, teacher.dtype, torch.is_autocast_enabled('cpu')))
            return super().distance(student, teacher)

    model = h.distiller(h.retinanet(), h.retinanet(width=16), looking=dict(type=Looking))
    with torch.autocast('cpu', torch.bfloat16):
        losses = h.losses_of(model, 'retinanet')
    assert set(seen) == {(torch.float32, torch.float32, False)}
    assert losses['looking/loss'].dtype == torch.float32


def test_nothing_is_kept_between_iterations():
    import gc

    model = h.distiller(h.retinanet(), h.retinanet(width=16), pkd=PKD, kd=KD)
    h.losses_of(model, 'retinanet')
    gc.collect()
    shape = (2, 16, 16, 16)
    kept = [o for o in gc.get_objects() if isinstance(o, torch.Tensor) and o.shape == shape]
    assert kept == []


def test_own_optimizers_without_the_hook_are_refused():
    adam = dict(type='AdamW', lr=1e-4)
    model = h.distiller(
        h.classifier(), h.classifier(16), fitnet=dict(type='mmkd.FitNet', optimizer=adam)
    )
    with pytest.raises(InputError, match=r'methods\.fitnet.*DistillationHook'):
        h.losses_of(model, 'classifier')


def test_a_class_list_that_differs_is_reported(monkeypatch):
    import mmkd.core.engine

    said = []
    model = h.distiller(h.retinanet(), h.retinanet(), pkd=PKD)
    monkeypatch.setattr(mmkd.core.engine, 'print_log', lambda text, *args: said.append(text))
    model.distillation.teachers['teacher'].classes = ('cat', 'dog', 'cow', 'hen')
    hub = MessageHub.get_instance('classes')
    hub.update_info('dataset_meta', dict(classes=('cat', 'dog', 'pig', 'hen')))
    h.losses_of(model, 'retinanet')
    h.losses_of(model, 'retinanet')
    assert len(said) == 1
    assert "2: 'cow' -> 'pig'" in said[0]
    hub.update_info('dataset_meta', {})


def test_which_teacher_must_be_said_where_there_are_several():
    options = dict(config=h.retinanet(), checkpoint='untrained')
    teachers = dict(big=options, small=options)
    with pytest.raises(InputError, match=r"2 teachers.*'big', 'small'"):
        h.distiller(h.retinanet(), teachers, pkd=PKD)
    with pytest.raises(InputError, match=r"unknown teacher 'bigg'; nearest: 'big'"):
        h.distiller(h.retinanet(), teachers, pkd=dict(**PKD, teacher='bigg'))


@pytest.mark.parametrize('name', ['loss', 'train', 'a b', 'teachers'])
def test_method_names_that_would_collide_are_refused(name):
    with pytest.raises(InputError, match=r'the name .* cannot be used'):
        h.distiller(h.retinanet(), h.retinanet(), **{name: PKD})


def test_what_a_head_overwrites_is_cloned_from_the_second_iteration_on():
    model = h.distiller(h.retinanet(), h.retinanet(), scaled=dict(type=Scaled))
    model.bbox_head.register_forward_pre_hook(
        lambda head, args: [x.relu_() for x in args[0]] and None
    )
    assert model.distillation._probed.overwritten == set()
    h.losses_of(model, 'retinanet')
    assert model.distillation._probed.overwritten == {('neck', 'output')}
    seen = []
    model.distillation.scaled.distance = lambda s, t: seen.append(s.min()) or s.sum()
    h.losses_of(model, 'retinanet')
    assert min(seen) < 0


@pytest.mark.parametrize('size', [0, -1, 'large', 1.5])
def test_a_wrong_size_of_image_is_named(size):
    with pytest.raises(InputError, match=r'image_size=.*; needed: a number of pixels, or None'):
        h.build(dict(type='mmkd.Distiller', student=h.classifier(), image_size=size,
                     methods=dict(sfr=dict(type='mmkd.SFR'))))  # fmt: skip


def test_boxes_of_branches_are_boxes_of_images():
    """A student of three branches has six images of a batch of two."""
    rois = torch.tensor([[0.0, 1, 2, 3, 4], [3.0, 5, 6, 7, 8], [4.0, 0, 0, 9, 9]])
    assert _of_images(rois, 2)[:, 0].tolist() == [0, 1, 0]
    assert torch.equal(_of_images(rois, 2)[:, 1:], rois[:, 1:])
