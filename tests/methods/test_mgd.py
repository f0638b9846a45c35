"""MGD on real models: masks, weights by kind of detector, and the rebuilt map by hand."""

import helpers as h
import pytest
import torch
import torch.nn.functional as F

from mmkd.methods import MGD

CONFIG = dict(type='mmkd.MGD')


@pytest.mark.parametrize(
    ('family', 'weight', 'mask'),
    [
        ('retinanet', 2e-5, 0.65), ('fcos', 2e-5, 0.65), ('faster_rcnn', 5e-7, 0.45), ('dino', 5e-7, 0.45),
        ('segmentor', 2e-5, 0.65), ('classifier', 2e-5, 0.65),
    ],
)  # fmt: skip
def test_weight_and_mask_follow_the_kind_of_detector(family, weight, mask):
    model = h.distiller(h.FAMILIES[family](), h.FAMILIES[family](), mgd=CONFIG)
    assert (model.distillation.mgd.weight(0.0), model.distillation.mgd.mask) == (weight, mask)
    model = h.distiller(
        h.FAMILIES[family](), h.FAMILIES[family](), mgd=dict(CONFIG, weight=3.0, mask=0.1)
    )
    assert (model.distillation.mgd.weight(0.0), model.distillation.mgd.mask) == (3.0, 0.1)


def test_the_loss_is_that_of_a_map_that_is_rebuilt_position_by_position():
    model = h.distiller(h.retinanet(), h.retinanet(), mgd=dict(CONFIG, mask=0.5))
    method = model.distillation.mgd
    student, teacher = torch.randn(2, 2, 16, 4, 5)
    method.pairs = lambda step: [(student, teacher)]
    rng = torch.Generator()
    rng.set_state(method.training_state())
    got = method(None)['loss'].item()
    own = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=rng)))
    kept = torch.rand(2, 20, generator=own).view(2, 4, 5) >= 0.5
    masked = student.clone()
    for image in range(2):
        for y in range(4):
            for x in range(5):
                if not kept[image, y, x]:
                    masked[image, :, y, x] = 0
    first, _, last = method.generators[0]
    patches = F.unfold(masked, 3, padding=1)
    hidden = (
        (first.weight.flatten(1) @ patches + first.bias[:, None]).clamp_min(0).view(2, 16, 4, 5)
    )
    rebuilt = last.weight.flatten(1) @ F.unfold(hidden, 3, padding=1) + last.bias[:, None]
    expected = ((rebuilt.view(2, 16, 4, 5) - teacher) ** 2).sum().item() / 2
    assert got == pytest.approx(expected, rel=1e-4)
    assert 0 < kept.sum() < 40


def test_as_many_positions_are_masked_as_the_option_says():
    method = MGD(mask=0.65)
    zeros = [(method._masked(torch.ones(2, 3, 50, 50)) == 0).float() for _ in range(2)]
    assert zeros[0].mean().item() == pytest.approx(0.65, abs=0.02)
    assert torch.equal(zeros[0][:, 0], zeros[0][:, 2])
    assert not torch.equal(*zeros)


def test_masks_go_on_where_they_were():
    first, second = MGD(mask=0.5), MGD(mask=0.5, seed=3)
    first._masked(torch.ones(1, 1, 4, 4))
    second.resume_training(first.training_state())
    maps = torch.ones(1, 1, 8, 8)
    assert torch.equal(first._masked(maps), second._masked(maps))


@pytest.mark.parametrize('family', ['retinanet', 'faster_rcnn', 'classifier', 'segmentor'])
def test_it_trains_the_student_and_its_generators(family):
    model = h.distiller(h.FAMILIES[family](), h.FAMILIES[family](), mgd=CONFIG)
    h.losses_of(model, family)['mgd/loss'].backward()
    grads = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    assert sum(grad.abs().sum() for grad in grads) > 0
    first = model.distillation.mgd.generators[0]  # of a single position all may be masked
    assert all(p.grad.abs().sum() > 0 for p in first.parameters())
