"""What a method is given: the batch, what both networks answer, and the student once more."""

import helpers as h
import pytest
import torch
from mmengine.logging import MessageHub

from mmkd import Tap
from mmkd.core.method import FeatureMethod
from mmkd.core.step import Side


class Listening(FeatureMethod):
    """Keeps what it is given."""

    task_weight = 0.25

    def setup(self, student, teacher):
        self.sides = student, teacher

    def forward(self, step):
        self.step = step
        return {'loss': sum(level.square().mean() for level in step.student.tensors())}


class Alone(Listening):
    needs_teacher = False


def listening(kind, *teacher, **options):
    """A Distiller with its one method, after an iteration at three quarters of training."""
    model = h.distiller(h.retinanet(), *teacher, listening=dict(type=kind, **options))
    h.freeze_statistics(model)
    batch = model.data_preprocessor(h.raw_batch('retinanet'), True)
    hub = MessageHub.get_instance('step')
    hub.update_info('max_iters', 8)
    hub.update_info('iter', 6)
    losses = model(**batch, mode='loss')
    hub.update_info('max_iters', 0)  # nothing runs any more
    return model, model.distillation.methods['listening'], batch, losses


def test_an_iteration_is_given_as_it_is():
    model, method, batch, losses = listening(Listening, h.retinanet(width=16))
    step = method.step
    assert (step.inputs, step.samples) == (batch['inputs'], batch['data_samples'])
    assert step.progress == 0.75
    theirs = model.distillation.teachers['teacher'].model.extract_feat(batch['inputs'])
    assert all(torch.equal(a, b) for a, b in zip(step.answers()[Tap('neck')], theirs))
    ours = model.extract_feat(batch['inputs'])
    assert all(torch.equal(a, b) for a, b in zip(step.student[Tap('neck')], ours))
    assert all(level.requires_grad for level in step.student[Tap('neck')])
    own = model.loss(batch['inputs'], batch['data_samples'])
    assert step.losses.keys() == own.keys()
    for name, levels in own.items():  # the student's, before the method's weight of the task
        assert all(torch.equal(a, b) for a, b in zip(step.losses[name], levels))
        assert all(torch.equal(a, 0.25 * b) for a, b in zip(losses[name], levels))


def test_the_student_runs_again_on_other_images_with_gradient():
    tap = Tap('backbone.layer2')
    model, method, batch, _ = listening(Alone, tap='backbone.layer2')
    other, net = batch['inputs'].flip(-1), model.backbone
    again = method.step.rerun(other, [tap])[tap][0]
    stem = net.maxpool(net.relu(net.bn1(net.conv1(other))))
    torch.testing.assert_close(again, net.layer2(net.layer1(stem)))
    again.sum().backward()
    assert net.layer2[0].downsample[0].weight.grad.abs().sum() > 0
    assert net.layer3[0].downsample[0].weight.grad is None


def test_a_method_without_a_teacher_is_given_none():
    _, method, _, _ = listening(Alone)
    assert method.step.teacher is None
    assert method.sides[1] is None
    with pytest.raises(AssertionError):
        method.step.answers()


@pytest.mark.parametrize(
    ('family', 'task'),
    [('classifier', 'classification'), ('rtmdet', 'detection'), ('segmentor', 'segmentation')],
)
def test_a_side_has_the_task_of_its_model(family, task):
    model = h.build(h.FAMILIES[family]())
    assert Side(model, {}, {}, 'the student').task == task


def test_the_sides_are_both_networks_with_the_shapes_at_their_taps():
    _, method, _, _ = listening(Listening, h.retinanet(width=16))
    assert [side.owner for side in method.sides] == ['the student', 'the teacher']
    for side in method.sides:
        shapes = [tuple(shape) for shape in side.shapes[Tap('neck')]]
        assert shapes == [(1, 16, side.image // s, side.image // s) for s in (8, 16, 32, 64, 128)]
