"""FRSKD: what it computes for each task, where its gradients go, what it refuses."""

import copy

import helpers as h
import pytest
import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox_overlaps

import mmkd
from mmkd.core.schedules import build_schedule
from mmkd.errors import InputError
from mmkd.family.taps import Tap, capture
from mmkd.losses.attention import attention_distance

BEFORE, EARLY, LATE = 0.3, 0.55, 0.9
"""Of a detector's training: nothing runs, the self-teacher learns, it teaches."""
RAMP = build_schedule(dict(type='Ramp', value=1.0, begin=2 / 3, until=1.0, shape='sigmoid'))


@pytest.fixture
def at(monkeypatch):
    """Set how far training is."""
    return lambda share: monkeypatch.setattr('mmkd.core.engine.progress', lambda: share)


def build(family='classifier', changes=None, **options):
    student = h.FAMILIES[family]()
    for part, change in (changes or {}).items():
        student[part] = {**student.get(part, {}), **change}
    model = h.distiller(student, frskd=dict(type='mmkd.FRSKD', **options))
    return h.freeze_statistics(model)


def batch(model, family='classifier', **options):
    return model.data_preprocessor(h.raw_batch(family, **options), True)


def stages(model, images):
    backbone = model.backbone
    x = backbone.maxpool(backbone.relu(backbone.norm1(backbone.conv1(images))))
    maps = []
    for name in backbone.res_layers:
        x = getattr(backbone, name)(x)
        maps.append(x)
    return maps


def attention(x):
    energy = (x**2).mean(1).flatten(1)
    return energy / (energy**2).sum(1, keepdim=True).sqrt()


def kl(student, teacher, t):
    teacher, student = teacher.double(), student.double()  # small differences of large terms
    teacher, student = (teacher / t).softmax(1), (student / t).log_softmax(1)
    return (teacher * (teacher.log() - student)).sum() * t * t / len(student)


@pytest.mark.parametrize('options', [dict(), dict(alpha=1.5, beta=30.0, temperature=3.0),
                                     dict(channels=16, repeat=2), dict(width=1, depth=1)])  # fmt: skip
def test_classification_is_ce_ce_kl_and_attention(options):
    model = build(**options).train()  # batch statistics: the same in a second pass
    data = batch(model, sizes=((48, 48),) * 4)
    losses = model(**data, mode='loss')
    labels = torch.cat([sample.gt_label for sample in data['data_samples']])
    maps = stages(model, data['inputs'])
    teacher = model.distillation.frskd.self_teacher
    refined = teacher.pyramid(maps)
    z_s, z_t = model(data['inputs'], mode='tensor'), teacher.fc(refined[-1].mean((2, 3)))
    expected = {
        'loss': F.cross_entropy(z_s, labels),
        'frskd/loss_ce': F.cross_entropy(z_t, labels),
        'frskd/loss_logits': options.get('alpha', 2) * kl(z_s, z_t, options.get('temperature', 4)),
        'frskd/loss_attention': options.get('beta', 100) * sum(
            (attention(s) - attention(t)).square().mean() for s, t in zip(maps, refined)
        ),
    }  # fmt: skip
    assert losses.keys() - {'frskd/share'} == expected.keys()
    # single precision leaves 1e-7 of a divergence, which alpha T^2 then multiplies
    rounding = 1e-7 * options.get('alpha', 2) * options.get('temperature', 4) ** 2
    for name, value in expected.items():
        tolerance = rounding if name == 'frskd/loss_logits' else 1e-6
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-5, abs=tolerance), name


def test_stages_that_end_in_a_relu_are_compared_as_they_are():
    model = build().train()
    data = batch(model)
    losses = model(**data, mode='loss')
    maps = stages(model, data['inputs'])
    refined = model.distillation.frskd.self_teacher.pyramid(maps)
    as_given = torch.stack([attention_distance(s, t) for s, t in zip(maps, refined)]).sum()
    assert torch.equal(losses['frskd/loss_attention'], 100 * as_given)


WRN_TAPS = ['backbone.stages.1.0.norm1', 'backbone.stages.2.0.norm1', 'backbone.stages.2']


def wide_resnet(**options):
    student = h.classifier()
    student.backbone = dict(type='mmkd.WideResNet', depth=16, width=1)
    student.head.in_channels = 64
    return h.distiller(student, frskd=dict(type='mmkd.FRSKD', **options)).train()


def wide_stages(model, images):
    outputs = [model.backbone.stem(images)]
    for stage in model.backbone.stages:
        outputs.append(stage(outputs[-1]))
    return outputs[1:]


@pytest.mark.parametrize('feature', ['attention', 'fitnet'])
def test_signed_sums_are_activated_before_they_are_compared(feature):
    model = wide_resnet(feature=feature)
    method, data = model.distillation.frskd, batch(model, sizes=((32, 32),) * 4)
    maps = [m.detach().requires_grad_() for m in wide_stages(model, data['inputs'])]
    negative = [(m < 0).float().mean().item() for m in maps]
    assert all(0.3 < share < 0.7 for share in negative[:2])
    assert negative[2] == 0
    distance = method._distance(maps, method.self_teacher.pyramid(maps))
    for m, gradient in zip(maps, torch.autograd.grad(distance, maps)):
        assert (gradient[m <= 0] == 0).all()
        assert (gradient[m > 0] != 0).float().mean() > 0.9


@pytest.mark.parametrize('tap', [None, WRN_TAPS])
def test_the_maps_of_a_wide_resnet_are_its_activated_sums_or_normalised_ones(tap):
    model = wide_resnet(tap=tap)
    data = batch(model, sizes=((32, 32),) * 4)
    losses = model(**data, mode='loss')
    maps = wide_stages(model, data['inputs'])
    if tap is not None:
        norms = [stage[0].norm1 for stage in model.backbone.stages[1:]]
        maps = [norm(m) for norm, m in zip(norms, maps)] + maps[2:]
    maps = [m.clamp_min(0) for m in maps]
    refined = model.distillation.frskd.self_teacher.pyramid(maps)
    expected = sum((attention(s) - attention(t)).square().mean() for s, t in zip(maps, refined))
    assert losses['frskd/loss_attention'].item() == pytest.approx(100 * expected.item(), rel=1e-4)


@pytest.mark.parametrize('augment', ['Mixup', 'CutMix'])
def test_mixed_labels_reach_both_cross_entropies(augment):
    changes = dict(
        head=dict(loss=dict(type='CrossEntropyLoss', use_soft=True)),
        train_cfg=dict(augments=dict(type=augment, alpha=1.0)),
    )
    model = build(changes=changes)
    data = batch(model, sizes=((64, 64),) * 4)
    labels = torch.stack([sample.gt_score for sample in data['data_samples']])
    assert ((labels > 0).sum(1) > 1).any()
    losses = model(**data, mode='loss')
    teacher = model.distillation.frskd.self_teacher
    z_t = teacher.fc(teacher.pyramid(stages(model, data['inputs']))[-1].mean((2, 3)))
    z_s = model(data['inputs'], mode='tensor')
    for name, logits in (('loss', z_s), ('frskd/loss_ce', z_t)):
        expected = -(labels * logits.log_softmax(1)).sum(1).mean()
        assert losses[name].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize('soft', [False, True])
def test_rotations_have_joint_labels_and_teach_their_mean(soft):
    changes = dict(
        head=dict(loss=dict(type='CrossEntropyLoss', use_soft=True)),
        train_cfg=dict(augments=dict(type='Mixup', alpha=1.0)),
    )
    model = build(changes=changes if soft else None, rotations=True)
    data = batch(model, sizes=((64, 64),) * 3)
    losses = model(**data, mode='loss')
    teacher, z_s = model.distillation.frskd.self_teacher, model(data['inputs'], mode='tensor')
    classes = z_s.shape[1]
    assert teacher.fc.out_features == 4 * classes
    samples = data['data_samples']
    if soft:
        labels = torch.stack([sample.gt_score for sample in samples])
    else:
        labels = torch.eye(classes)[torch.cat([sample.gt_label for sample in samples])]
    entropy, attentions, taught = 0.0, [], torch.zeros(3, classes)
    turned = data['inputs']
    for k in range(4):
        maps = stages(model, turned)
        refined = teacher.pyramid(maps)
        z_t = teacher.fc(refined[-1].mean((2, 3)))
        entropy -= (labels * z_t.log_softmax(1)[:, k::4]).sum() / 12
        taught += z_t[:, k::4] / 4
        attentions += [
            (attention(s) - attention(t)).square().mean() / 4 for s, t in zip(maps, refined)
        ]
        turned = turned.transpose(2, 3).flip(2)  # a quarter to the left
    expected = {
        'loss': -(labels * z_s.log_softmax(1)).sum(1).mean(),
        'frskd/loss_ce': entropy,
        'frskd/loss_logits': 2 * kl(z_s, taught, 4),
        'frskd/loss_attention': 100 * sum(attentions),
    }
    assert losses.keys() - {'frskd/share'} == expected.keys()
    for name, value in expected.items():
        tolerance = 3e-6 if name == 'frskd/loss_logits' else 1e-6
        assert losses[name].item() == pytest.approx(value.item(), rel=2e-5, abs=tolerance), name


def test_rotations_run_in_the_precision_of_training():
    model = build(rotations=True)
    data, seen = batch(model), []
    conv = model.backbone.conv1
    conv.register_forward_hook(lambda module, args, out: seen.append((len(out), out.dtype)))
    with torch.autocast('cpu', torch.bfloat16):
        model(**data, mode='loss')
    size = len(data['inputs'])
    assert seen == [(size, torch.bfloat16), (3 * size, torch.bfloat16)]


def test_rotations_need_square_images():
    with pytest.raises(InputError, match='rotations=True; the images of the batch are 64x96'):
        h.losses_of(build(rotations=True), 'classifier', sizes=((64, 96),) * 2)


def test_without_a_feature_term():
    losses = h.losses_of(build(feature=None), 'classifier')
    assert set(losses) == {'loss', 'frskd/loss_ce', 'frskd/loss_logits'}


def test_fitnet_adapts_channels_and_compares_maps():
    model = build(feature='fitnet', beta=3.0)
    data = batch(model)
    losses = model(**data, mode='loss')
    method, maps = model.distillation.frskd, stages(model, data['inputs'])
    refined = method.self_teacher.pyramid(maps)
    expected = sum(
        ((adapt(s) - t) ** 2).mean() for adapt, s, t in zip(method.adapters, maps, refined)
    )
    assert losses['frskd/loss_fitnet'].item() == pytest.approx(3 * expected.item(), rel=1e-5)


def grads(value, parameters):
    parameters = [p for p in parameters if p.requires_grad]
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return any(g is not None and bool(g.abs().sum() > 0) for g in found)


DISTILLING = {
    'classifier': ('logits', 'attention'),
    'retinanet': ('logits', 'attention', 'localization'),
    'gfl': ('logits', 'attention', 'localization'),
    'faster_rcnn': ('logits', 'attention'),
    'segmentor': ('logits', 'attention'),
}


@pytest.mark.parametrize('detach_input', [False, True])
@pytest.mark.parametrize('family', DISTILLING)
def test_who_trains_whom(family, detach_input, at):
    at(LATE)
    model = build(family, detach_input=detach_input)
    losses = h.losses_of(model, family)
    teacher = model.distillation.frskd.self_teacher
    for term in DISTILLING[family]:
        loss = losses[f'frskd/loss_{term}']
        assert not grads(loss, teacher.parameters()), term
        assert grads(loss, model.backbone.parameters()), term
    own = sum(v for k, v in losses.items() if k.startswith('frskd/loss')
              and k[11:] not in DISTILLING[family])  # fmt: skip
    assert grads(own, teacher.parameters())
    assert grads(own, model.backbone.parameters()) is not detach_input
    names = {'head', 'bbox_head', 'rpn_head', 'roi_head', 'decode_head'}
    heads = [p for name, part in model.named_children() if name in names for p in part.parameters()]
    assert not grads(own, heads)


DENSE = ('retinanet', 'gfl', 'fcos', 'rtmdet', 'softmax')
FAMILIES = [
    *DENSE, 'faster_rcnn', 'cascade_rcnn', 'mask_rcnn',
    'dino', 'deformable_detr', 'segmentor',
]  # fmt: skip


@pytest.mark.parametrize('family', FAMILIES)
def test_any_family_trains(family, at):
    at(EARLY)
    model = build(family)
    if family == 'rtmdet':
        model.train()  # with the statistics it starts with, its features fade to nothing
    teacher = model.distillation.frskd.self_teacher
    early = h.losses_of(model, family)
    own = {name for name in early if 'frskd' in name and 'loss' in name}
    plain = {name for name in early if 'frskd' not in name and 'loss' in name}
    assert len(own) == len(plain) > 0
    assert all(name.startswith('frskd/loss_') for name in own)
    total, _ = model.parse_losses(early)
    total.backward()
    idle = [n for n, p in teacher.named_parameters() if p.requires_grad and p.grad is None]
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None
              and not n.startswith('distillation')]  # fmt: skip
    assert len(idle) <= len(unused)
    at(LATE)
    late = h.losses_of(model, family)
    taught = {'attention', 'logits', *(['localization'] if family in DENSE else [])}
    assert set(late) - set(early) == {f'frskd/loss_{term}' for term in taught}
    assert all(late[f'frskd/loss_{term}'] > 0 for term in taught)


@pytest.mark.parametrize('family', ['retinanet', 'softmax', 'gfl', 'segmentor'])
def test_dense_terms_are_those_of_two_heads_ramped(family, at):
    at(LATE)
    still = dict(decode_head=dict(dropout_ratio=0.0)) if family == 'segmentor' else None
    model = build(family, still, alpha=0.5, beta=20.0).train()
    data = batch(model, family)
    losses = model(**data, mode='loss')
    teacher = model.distillation.frskd.self_teacher
    maps = model.extract_feat(data['inputs'])
    refined = teacher.pyramid(maps)
    assert [t.shape for t in refined] == [m.shape for m in maps]
    ramp = RAMP(LATE)
    active = [m.clamp_min(0) for m in maps]
    images = len(maps[0])
    turns = [(attention(s) - attention(t)).square().sum() / images for s, t in zip(active, refined)]
    assert losses['frskd/loss_attention'].item() == pytest.approx(
        20 * ramp * sum(turns).item(), rel=1e-4
    )
    if family == 'segmentor':
        z_s, z_t = model.decode_head(maps), teacher.heads.decode_head(refined)
        z_s, z_t = (z.permute(0, 2, 3, 1).flatten(0, 2) for z in (z_s, z_t))
        value = kl(z_s, z_t, 1.0)
    else:
        head = model.bbox_head
        z_s, z_t = (
            torch.cat([level.permute(0, 2, 3, 1).reshape(-1, head.cls_out_channels) for level in out[0]])
            for out in (head(maps), teacher.heads.bbox_head(refined))
        )  # fmt: skip
        value = dense_divergence(z_s, z_t, family == 'softmax')
    assert losses['frskd/loss_logits'].item() == pytest.approx(0.5 * ramp * value.item(), rel=1e-4)


def dense_divergence(student, teacher, softmax):
    if softmax:
        p, log_q = teacher.softmax(1), student.log_softmax(1)
        return (p * (p.log() - log_q)).sum() / p[:, :-1].amax(1).sum().clamp_min(1)
    p, q = teacher.sigmoid(), student.sigmoid()
    both = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    return both.sum() / p.amax(1).sum().clamp_min(1)


@pytest.mark.parametrize('head', ['own', 'shared'])
def test_the_self_teachers_own_loss_is_the_heads_loss_on_the_refined_maps(head, at):
    at(EARLY)
    model = build('retinanet', head=head)
    data = batch(model, 'retinanet')
    losses = model(**data, mode='loss')
    heads = model.distillation.frskd.self_teacher.heads
    refined = model.distillation.frskd.self_teacher.pyramid(model.extract_feat(data['inputs']))
    for name, values in heads.bbox_head.loss(refined, data['data_samples']).items():
        assert losses[f'frskd/{name}'].item() == pytest.approx(sum(values).item(), rel=1e-5)
    ours, theirs = model.bbox_head.state_dict(), heads.bbox_head.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours) is (head == 'shared')


@pytest.mark.parametrize('family', ['gfl', 'retinanet'])
def test_boxes_follow_the_self_teachers_where_it_is_sure(family, at):
    at(LATE)
    model = build(family, gamma=3.0)
    data = batch(model, family)
    losses = model(**data, mode='loss')
    teacher, head = model.distillation.frskd.self_teacher, model.bbox_head
    maps = model.extract_feat(data['inputs'])
    ours, theirs = head(maps), teacher.heads.bbox_head(teacher.pyramid(maps))
    total, sure = 0.0, 0.0
    places = head.prior_generator.grid_priors([m.shape[-2:] for m in maps], device='cpu')
    for at_level, own, target, scores in zip(places, ours[1], theirs[1], theirs[0]):
        own, target = (m.permute(0, 2, 3, 1) for m in (own, target))
        chance = scores.permute(0, 2, 3, 1).reshape(-1, h.CLASSES).sigmoid().amax(1)
        if family == 'gfl':
            p, log_q = target.reshape(-1, 4, 17).softmax(2), own.reshape(-1, 4, 17).log_softmax(2)
            distance = (p * (p.log() - log_q)).sum(2).mean(1)
        else:
            boxes = [
                head.bbox_coder.decode(at_level.repeat(len(own), 1), m.reshape(-1, 4))
                for m in (own, target)
            ]
            distance = 1 - bbox_overlaps(*boxes, mode='giou', is_aligned=True)
        total, sure = total + (chance * distance).sum(), sure + chance.sum()
    expected = 3 * RAMP(LATE) * total / sure.clamp_min(1)
    assert losses['frskd/loss_localization'].item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize('family', ['retinanet', 'faster_rcnn', 'segmentor'])
def test_nothing_runs_before_the_warm_up(family, at, monkeypatch):
    model, plain = build(family), h.freeze_statistics(h.build(h.FAMILIES[family]()))
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if 'distillation' not in k})
    teacher, runs = model.distillation.frskd.self_teacher, []
    forward = teacher.forward
    monkeypatch.setattr(teacher, 'forward', lambda *args: runs.append(1) or forward(*args))
    for share, expected in ((0.0, 0), (0.49, 0), (0.51, 1), (LATE, 2)):
        at(share)
        losses = h.losses_of(model, family)
        assert len(runs) == expected
        assert any(name.startswith('frskd/') for name in losses) is (expected > 0)


def test_the_warm_up_is_as_long_as_asked_and_deep_supervision_needs_none(at):
    first = {}
    for name, options in dict(
        default={}, none=dict(warm_up=0.0), half=dict(warm_up=0.5), deep=dict(deep_supervision=True)
    ).items():
        method = build('retinanet', **options).distillation.frskd
        first[name] = next(i / 600 for i in range(601) if method._runs(i / 600))
    assert first['default'] == pytest.approx(1 / 2, abs=0.002)
    assert first['none'] == pytest.approx(2 / 3, abs=0.002)
    assert first['half'] == pytest.approx(1 / 6, abs=0.002)
    assert first['deep'] == 0


def test_a_term_that_ends_lets_the_self_teacher_rest():
    until = dict(type='CutOff', value=1.0, at=0.4)
    off = dict(feature=None, gamma=0.0)
    method = build('retinanet', alpha=until, **off).distillation.frskd
    assert [method._runs(share) for share in (0.0, 0.3, 0.5, 1.0)] == [True, True, False, False]


def test_a_classifiers_self_teacher_runs_from_the_start_unless_told_otherwise(at):
    late = dict(alpha=dict(type='Ramp', value=1.0, begin=0.8, until=1.0), feature=None)
    at(BEFORE)
    assert 'frskd/loss_ce' in h.losses_of(build(**late), 'classifier')
    assert set(h.losses_of(build(**late, deep_supervision=False), 'classifier')) == {'loss'}


@pytest.mark.parametrize('head', ['own', 'shared'])
def test_idle_parameters_are_those_that_the_losses_do_not_reach(head, at):
    for share in (BEFORE, EARLY, LATE):
        at(share)
        model = build('retinanet', head=head, feature='fitnet')
        method = model.distillation.frskd
        idle = {id(p) for p in method.idle_parameters(share)}
        losses = h.losses_of(model, 'retinanet')
        total = sum(
            v if isinstance(v, torch.Tensor) else sum(v) for k, v in losses.items() if 'loss' in k
        )
        total.backward()  # of the distiller: every parameter has a gradient, by zero where it is idle
        assert all(p.grad is not None for p in method.parameters())
        moved = {id(p) for p in method.parameters() if p.grad.any()}
        assert not moved & idle
        everything = {id(p) for p in method.parameters()}
        adapters = {id(p) for p in method.adapters.parameters()}
        assert idle == {BEFORE: everything, EARLY: adapters, LATE: set()}[share]


@pytest.mark.parametrize('family', ['retinanet', 'gfl', 'faster_rcnn', 'dino', 'segmentor'])
def test_a_shared_head_learns_on_both_maps_and_teaches(family, at):
    at(LATE)
    model = build(family, head='shared')
    losses = h.losses_of(model, family)
    method = model.distillation.frskd
    names = {'bbox_head', 'rpn_head', 'roi_head', 'decode_head', 'encoder', 'decoder'}
    heads = [p for name, part in model.named_children() if name in names for p in part.parameters()]
    own = sum(
        v
        for k, v in losses.items()
        if k.startswith('frskd/loss') and k[11:] not in DISTILLING['gfl']
    )
    assert grads(own, heads)
    assert grads(losses['frskd/loss_logits'], heads)
    assert not grads(losses['frskd/loss_logits'], method.parameters())
    assert {name.split('.')[1] for name in method.state_dict()} == {'pyramid'}
    model.parse_losses(losses)[0].backward()


def test_a_shared_head_saves_parameters_and_no_multiply_adds(at):
    counted, held = {}, {}
    for head, share in (('own', LATE), ('shared', LATE), ('none', BEFORE)):
        at(share)
        model = build('retinanet', head='own' if head == 'none' else head)
        counts = []
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(
                    lambda module, _, out, counts=counts: counts.append(
                        out.numel() * module.weight[0].numel()
                    )
                )
        h.losses_of(model, 'retinanet')
        counted[head] = sum(counts)
        held[head] = sum(p.numel() for p in model.distillation.parameters())
    heads = sum(p.numel() for p in model.bbox_head.parameters())
    assert counted['own'] == counted['shared'] > 1.1 * counted['none']
    assert held['own'] == held['shared'] + heads


def test_a_shared_heads_student_is_a_plain_student(at):
    at(LATE)
    model, plain = build('retinanet', head='shared'), h.build(h.retinanet())
    own = {name for name in model.state_dict() if not name.startswith('distillation.')}
    assert own == set(plain.state_dict()) == set(copy.deepcopy(model).state_dict())
    twin = copy.deepcopy(model)
    assert twin.bbox_head is not model.bbox_head


@pytest.mark.parametrize('family', ['faster_rcnn', 'cascade_rcnn'])
def test_roi_logits_are_compared_on_the_students_boxes(family, at, monkeypatch):
    at(LATE)
    model = build(family, alpha=1.0)
    seen = {'ours': [], 'theirs': []}
    heads = model.distillation.frskd.self_teacher.heads
    for side, net in (('ours', model), ('theirs', heads)):
        forward = net.roi_head._bbox_forward

        def spy(*args, forward=forward, side=side):
            out = forward(*args)
            seen[side].append((args[-1], out['cls_score'], torch.is_grad_enabled()))
            return out

        monkeypatch.setattr(net.roi_head, '_bbox_forward', spy)
    losses = h.losses_of(model, family)
    stages = len(seen['ours'])
    scored = [entry for entry in seen['theirs'] if not entry[2]]
    assert len(scored) == stages
    divergences = []
    for (boxes, z_s, _), (their_boxes, z_t, _) in zip(seen['ours'], scored):
        assert torch.equal(boxes, their_boxes)
        p, log_q = z_t.softmax(1), z_s.log_softmax(1)
        divergences.append((p * (p.log() - log_q)).sum(1))
    expected = RAMP(LATE) * torch.cat(divergences).mean()
    assert losses['frskd/loss_logits'].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize('family', ['dino', 'deformable_detr'])
def test_weights_that_only_the_whole_detector_draws_are_drawn(family):
    levels = build(family).distillation.frskd.self_teacher.heads.level_embed
    assert 0.7 < levels.std() < 1.3  # the construction leaves what the memory held


def test_a_schedule_is_taken_as_it_is(at):
    at(EARLY)
    constant = dict(type='Piecewise', points=[(0, 1.0), (1, 1.0)])
    weights = dict(alpha=constant, beta=constant, gamma=constant)
    losses = h.losses_of(build('retinanet', **weights), 'retinanet')
    terms = ('attention', 'logits', 'localization')
    assert {f'frskd/loss_{term}' for term in terms} < set(losses)


def test_the_methods_weight_scales_every_term():
    once, thrice = (h.losses_of(build(weight=w), 'classifier') for w in (1.0, 3.0))
    for name, value in once.items():
        factor = 3 if name.startswith('frskd/') else 1
        assert thrice[name].item() == pytest.approx(factor * value.item(), rel=1e-5)


@pytest.mark.parametrize('family', ['classifier', 'retinanet', 'segmentor'])
def test_the_trained_student_is_a_plain_student(family):
    model = build(family)
    plain = h.build(h.FAMILIES[family]())
    own = {name for name in model.state_dict() if not name.startswith('distillation.')}
    assert own == set(plain.state_dict()) == set(copy.deepcopy(model).state_dict())
    plain.load_state_dict({name: model.state_dict()[name] for name in own})
    data = batch(model, family)
    model.eval(), plain.eval()
    with torch.no_grad():
        ours, theirs = (net.extract_feat(data['inputs']) for net in (model, plain))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


def test_it_combines_with_a_teacher_method():
    wide = h.classifier(16)
    methods = dict(frskd=dict(type='mmkd.FRSKD'), pkd=dict(type='mmkd.PKD'))
    model = h.freeze_statistics(h.distiller(h.classifier(), wide, **methods))
    losses = h.losses_of(model, 'classifier')
    assert {
        'loss',
        'frskd/loss_ce',
        'frskd/loss_logits',
        'frskd/loss_attention',
        'pkd/loss',
    } == set(losses)
    assert torch.allclose(
        h.losses_of(build(), 'classifier')['loss'],
        losses['loss'],
    )


def test_the_flag_needs_no_teacher():
    cfg = mmkd.distill('mmpretrain::resnet/resnet18_8xb32_in1k.py', 'frskd')
    assert cfg.model.methods.frskd.type == 'mmkd.FRSKD'
    assert cfg.model.get('teacher') is None


@pytest.mark.parametrize('kind', ['wrn', 'swin', 'vit'])
def test_other_backbones(kind):
    if kind == 'wrn':
        student = h.classifier()
        student.backbone = dict(type='mmkd.WideResNet', depth=10, width=1)
        student.head.in_channels = 64
    else:
        student = h.transformer(kind)
    size = (32, 32) if kind == 'wrn' else (224, 224)
    model = h.distiller(student, frskd=dict(type='mmkd.FRSKD'))
    losses = h.losses_of(model, 'classifier', sizes=(size, size))
    assert losses['frskd/loss_attention'] > 0


def test_each_of_two_vectors_of_logits_follows_the_self_teacher():
    student = h.classifier()
    arch = dict(embed_dims=16, channel_ratio=1, num_heads=2, depths=3)
    student.backbone = dict(type='mmpretrain.Conformer', arch=arch, base_channels=16)
    student.neck = None
    student.head.update(type='mmpretrain.ConformerHead', in_channels=[64, 16])
    model = h.distiller(student, frskd=dict(type='mmkd.FRSKD'))
    taught = Tap('distillation.frskd.self_teacher.fc')
    with capture(model, [('head', 'output'), taught.place]) as passed:
        losses = model(**batch(model, sizes=((64, 64),) * 2), mode='loss')
    told = [2.0 * kl(logits, passed[taught][0], 4.0) for logits in passed[Tap('head')]]
    assert len(told) == 2
    assert losses['frskd/loss_logits'].item() == pytest.approx(sum(told).item() / 2, abs=1e-5)


def test_odd_sizes_train():
    model = build()
    losses = h.losses_of(model, 'classifier', sizes=((75, 107),) * 2)
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None for p in model.distillation.parameters())


def test_single_precision_under_autocast():
    model = build()
    data = batch(model)
    with torch.autocast('cpu', torch.bfloat16):
        losses = model(**data, mode='loss')
    assert all(
        losses[f'frskd/loss_{n}'].dtype == torch.float32 for n in ('ce', 'logits', 'attention')
    )


def sigmoid_head(student):
    student.head.loss = dict(type='CrossEntropyLoss', use_sigmoid=True)


def bare_head(student):
    student.head = dict(type='ClsHead')


def one_map(student):
    student.neck, student.backbone.out_indices, student.bbox_head.in_channels = None, [3], 64


@pytest.mark.parametrize(
    ('family', 'change', 'options', 'words'),
    [
        ('retinanet', one_map, dict(), 'which the pyramid refines by one another'),
        ('classifier', None, dict(tap='backbone'), 'a single level'),
        ('classifier', None, dict(tap=['backbone.layer3', 'backbone.layer2']), 'grow: [(8, 8), (16, 16)]'),
        ('classifier', bare_head, dict(), 'num_classes=None; needed: vectors of class logits'),
        ('classifier', sigmoid_head, dict(), 'sigmoid classes'),
        ('classifier', None, dict(alpha=-1), 'alpha=-1: -1 is no weight; needed: a finite number >= 0'),
        ('classifier', None, dict(beta=-0.5), 'beta=-0.5: -0.5 is no weight; needed: a finite number >= 0'),
        ('classifier', None, dict(feature='atention'), "feature='atention'; nearest: 'attention'"),
        ('classifier', None, dict(feature=None, beta=1.0), 'feature=None has no effect'),
        ('classifier', None, dict(repeat=0), 'repeat=0; needed: a whole number >= 1'),
        ('classifier', None, dict(alpah=1), "unknown option 'alpah'; nearest: 'alpha'"),
        ('classifier', None, dict(temperature=0), 'temperature=0; needed: a finite number above 0'),
        ('classifier', None, dict(teacher='t'), 'is a self-method and takes no teacher'),
        ('retinanet', None, dict(channels=64), 'channels=64; for detection the pyramid'),
        ('retinanet', None, dict(rotations=True), 'rotations=True is for classification'),
        ('segmentor', None, dict(tap='backbone.layer4'), 'for segmentation the pyramid'),
        ('segmentor', None, dict(gamma=1.0), 'gamma=1.0; the boxes of FCNHead are not compared'),
        ('faster_rcnn', None, dict(gamma=1.0), 'gamma=1.0; the boxes of Shared2FCBBoxHead are not'),
        ('classifier', None, dict(gamma='x'), "gamma='x'"),
        ('classifier', None, dict(head='shared'), "head='shared'; a classifier's self-teacher"),
        ('retinanet', None, dict(head='sharde'), "head='sharde'; nearest: 'shared'"),
        ('retinanet', None, dict(warm_up=1.5), 'warm_up=1.5; needed: a finite number in [0, 1]'),
        ('retinanet', None, dict(deep_supervision='yes'), "deep_supervision='yes'; needed: True or False"),
        ('classifier', None, dict(depth=1.5), 'depth=1.5; needed: a whole number >= 1'),
        ('classifier', None, dict(rotations=1), 'rotations=1; needed: True or False'),
        ('classifier', None, dict(width=-1), 'width=-1; needed: a finite number above 0'),
        ('classifier', None, dict(tap=3), 'tap=3: tap: 3; needed: a module name'),
    ],
)  # fmt: skip
def test_wrong_input_is_answered(family, change, options, words):
    student = h.FAMILIES[family]()
    if change is not None:
        change(student)
    with pytest.raises(InputError) as error:
        h.distiller(student, frskd=dict(type='mmkd.FRSKD', **options))
    assert words in str(error.value)
