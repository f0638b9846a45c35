"""OFD on real residual classifiers: before the ReLU, with the teacher's norms."""

import helpers as h
import pytest
import torch

from mmkd import InputError, Tap
from mmkd.family.taps import capture
from mmkd.losses.margins import margins, partial_distance
from mmkd.methods.ofd import ends_of

OFD = dict(type='mmkd.OFD')


def test_the_loss_of_maps_before_their_last_relu():
    model = h.distiller(h.classifier(8), h.classifier(16), ofd=OFD).eval()
    batch = model.data_preprocessor(h.raw_batch('classifier'), True)
    got = model(**batch, mode='loss')['ofd/loss'].item()
    guide = model.distillation.teachers['teacher'].model
    total = 0.0
    for depth in range(4):
        maps = []
        for network in (model, guide):
            block = network.get_submodule(f'backbone.layer{depth + 1}.1')
            place = f'backbone.layer{depth + 1}.1'
            with (
                torch.no_grad(),
                capture(network, [(place, 'input')], copied=[(place, 'input')]) as features,
            ):
                network(batch['inputs'], mode='tensor')
                x = features[Tap(place, source='input')][0]
                hidden = block.relu(block.bn1(block.conv1(x.clone())))
                maps.append(block.bn2(block.conv2(hidden)) + x)
        connect = model.distillation.ofd.connectors[depth]
        norm = guide.get_submodule(f'backbone.layer{depth + 1}.1.bn2')
        with torch.no_grad():
            margin = margins(norm.bias, norm.weight)
            total += partial_distance(connect(maps[0]), maps[1], margin).item() / 2 ** (3 - depth)
    assert got == pytest.approx(1e-3 * total, rel=1e-4)


def test_it_trains_student_and_connectors():
    model = h.distiller(h.classifier(8), h.classifier(16), ofd=OFD)
    h.losses_of(model, 'classifier')['ofd/loss'].backward()
    for part in (model.backbone, model.distillation.ofd):
        grads = [p.grad for p in part.parameters() if p.grad is not None]
        assert all(grad.isfinite().all() for grad in grads)
        assert sum(grad.abs().sum() for grad in grads) > 0


def test_cifar_networks_end_likewise():
    model = h.shipped('cifar100/resnet20_cifar100.py')
    assert all(tap.at.endswith('.relu') for tap, _ in ends_of(model, 'the student'))


@pytest.mark.parametrize(
    ('student', 'options', 'words'),
    [
        (h.classifier, dict(tap='backbone'), 'leave tap and teacher_tap out'),
        (h.retinanet, {}, 'OFD is for classification'),
        (lambda: h.transformer('swin'), {}, 'OFD is for residual networks .* backbone.stages.0 of the student'),
    ],
)  # fmt: skip
def test_wrong_places_and_networks_are_answered(student, options, words):
    with pytest.raises(InputError, match=words):
        h.distiller(student(), student(), ofd=dict(OFD, **options))
