"""VFM on real models: a ViT's tokens for a detector, a segmentor and a classifier, images of any ratio."""

import helpers as h
import pytest
import torch
import torch.nn.functional as F

from mmkd import InputError, Tap
from mmkd.family.taps import capture
from mmkd.methods import VFM

FIXED = dict(type='mmkd.VFM', weight=2.0)
OBLONG = ((64, 96), (64, 96))


def vit(out_type='featmap'):
    cfg = h.transformer('vit')
    cfg.backbone.out_type = out_type
    if out_type == 'featmap':
        cfg.head = None
    return cfg


@pytest.mark.parametrize('form', ['cosine', 'mixed'])
def test_the_loss_of_oblong_images(form):
    model = h.distiller(h.retinanet(), vit(), vfm=dict(FIXED, form=form)).eval()
    batch = model.data_preprocessor(h.raw_batch('retinanet', sizes=OBLONG), True)
    got = model(**batch, mode='loss')['vfm/loss'].item()
    guide = model.distillation.teachers['teacher']
    with torch.no_grad(), capture(model, [('backbone', 'output')]) as features:
        model.extract_feat(batch['inputs'])
        tokens = guide.model.backbone(guide.repaint(batch['inputs'], batch['data_samples']))[-1]
        (*_, deepest) = features[Tap('backbone')]
        ours = model.distillation.vfm.project(deepest)
    assert tokens.shape[2:] == (2, 3)
    theirs = F.interpolate(tokens, ours.shape[2:], mode='bilinear', align_corners=False)
    expected = 1 - (ours * theirs).sum(1) / ours.norm(dim=1) / theirs.norm(dim=1)
    expected = expected.mean()
    if form == 'mixed':
        gap = (ours - theirs).abs()
        smooth = torch.where(gap < 1, gap**2 / 2, gap - 0.5).mean()
        expected = 0.9 * expected + 0.1 * smooth
    assert got == pytest.approx(2 * expected.item(), rel=1e-4)


def test_tokens_are_the_map_whatever_comes_before_them():
    losses, kept = [], []
    for out_type, tap in (('featmap', None), ('cls_token', 'backbone.ln1')):
        options = dict(FIXED) if tap is None else dict(FIXED, teacher_tap=tap)
        model = h.distiller(h.retinanet(), vit(out_type), vfm=options).eval()
        guide = model.distillation.teachers['teacher'].model.backbone
        for network, state in zip((model, guide), kept):
            network.load_state_dict(state)
        kept = [model.state_dict(), guide.state_dict()]
        losses.append(h.losses_of(model, 'retinanet', sizes=OBLONG)['vfm/loss'].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize('family', ['faster_rcnn', 'retinanet', 'segmentor', 'classifier'])
def test_the_weight_follows_the_gradients_and_the_student_is_trained(family):
    model = h.distiller(h.FAMILIES[family](), vit(), vfm=dict(type='mmkd.VFM'))
    losses = h.losses_of(model, family)
    assert losses['vfm/weight'] > 0
    losses['vfm/loss'].backward()
    grads = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    assert sum(grad.abs().sum() for grad in grads) > 0


def test_forms_have_projectors_of_one_and_two_layers():
    for form, layers in (('cosine', 1), ('mixed', 2)):
        model = h.distiller(h.retinanet(), vit(), vfm=dict(FIXED, form=form))
        convs = [m for m in model.distillation.vfm.project if isinstance(m, torch.nn.Conv2d)]
        assert len(convs) == layers
        assert (convs[0].in_channels, convs[-1].out_channels) == (64, 32)


def test_a_class_token_and_several_levels_are_answered():
    with pytest.raises(
        InputError, match=r"VFM: tap 'backbone' level -1 of the teacher.*out_type='featmap'"
    ):
        h.distiller(h.retinanet(), vit('cls_token'), vfm=FIXED)
    with pytest.raises(InputError, match=r'VFM: the student gives 4 levels'):
        h.distiller(
            h.retinanet(), h.retinanet(), vfm=dict(FIXED, tap='backbone', teacher_tap='backbone')
        )


def test_a_weight_of_none_is_the_default():
    for method in (VFM(weight=None), VFM(weight='auto'), VFM()):
        method.choose_weight('detection')
        assert method.weight(0.0) == 0.1
