"""DPK: what it computes for each task, its ratio, its state, its errors."""

import copy
import logging

import helpers as h
import pytest
import torch
import torch.nn.functional as F
from mmengine.runner import Runner
from rank_work import distilled_gradients, on_ranks

import mmkd.methods.dpk.method as method_module
from mmkd.core.forms import Form
from mmkd.errors import InputError
from mmkd.losses.cka import cka
from mmkd.methods import DPK
from mmkd.methods.dpk.method import ADAMW
from mmkd.necks.prior_injection import prior_tokens

LARGE = ((192, 192), (180, 160))
TINY = [dict(encoder=(16, 1, 2), decoder=(16, 1, 2))]


def dpk(**options):
    options.setdefault('size', 'light')
    return dict(type='mmkd.DPK', optimizer=None, **options)


def build(family='classifier', teacher=None, **options):
    student = h.FAMILIES[family]()
    model = h.distiller(student, teacher or h.FAMILIES[family](), dpk=dpk(**options))
    return h.freeze_statistics(model)


def features(model, data, taps=('layer3', 'layer4')):
    """The post-ReLU maps of student and teacher by plain forwards of their stages."""
    sides = []
    for net in (model, model.distillation.teachers['teacher'].model):
        x = net.backbone.maxpool(net.backbone.relu(net.backbone.norm1(net.backbone.conv1(data))))
        maps = {}
        for name in net.backbone.res_layers:
            x = maps[name] = getattr(net.backbone, name)(x)
        sides.append([maps[tap] for tap in taps])
    return list(zip(*sides))


def test_classification_is_ce_kl_and_reconstruction_with_the_published_weights():
    model = build(teacher=h.classifier(16), ratio=0.5)
    data = model.data_preprocessor(h.raw_batch('classifier'), True)
    losses = model(**data, mode='loss')
    method = model.distillation.dpk
    rng = torch.Generator().manual_seed(0)
    teacher = model.distillation.teachers['teacher'].model
    for name, stage, (s, t) in zip(
        ('layer3', 'layer4'), method.stages, features(model, data['inputs'])
    ):
        seed = int(torch.randint(2**62, (), generator=rng))
        tokens = t.shape[2] * t.shape[3]
        scores = torch.rand(2, tokens, generator=torch.Generator().manual_seed(seed))
        rebuilt = stage(s, t, 0.5, scores, floor=False)
        expected = 0.2 * ((rebuilt - t) ** 2).mean()
        assert losses[f'dpk/loss_{name}'].item() == pytest.approx(expected.item(), rel=1e-5)
    logits, answers = (net(data['inputs'], mode='tensor') for net in (model, teacher))
    soft, wanted = (logits / 4).log_softmax(1), (answers / 4).log_softmax(1)
    kl = (wanted.exp() * (wanted - soft)).sum(1).mean() * 16
    assert losses['dpk/loss_logits'].item() == pytest.approx(0.8 * kl.item(), rel=1e-4)
    labels = torch.cat([sample.gt_label for sample in data['data_samples']])
    ce = F.cross_entropy(logits, labels)
    assert losses['loss'].item() == pytest.approx(0.8 * ce.item(), rel=1e-5)


def test_the_loss_covers_every_position():
    model = build(teacher=h.classifier(16), ratio=0.5)
    data = model.data_preprocessor(h.raw_batch('classifier'), True)
    model.distillation.check_gradients = False
    for stage in model.distillation.dpk.stages:
        stage.predict.register_forward_hook(lambda module, inputs, output: output * 0)
    losses = model(**data, mode='loss')
    for name, (_, t) in zip(('layer3', 'layer4'), features(model, data['inputs'])):
        expected = 0.2 * sum((t[:, :, i, j] ** 2).mean() for i in range(t.shape[2])
                             for j in range(t.shape[3])) / t[0, 0].numel()  # fmt: skip
        assert losses[f'dpk/loss_{name}'].item() == pytest.approx(expected.item(), rel=1e-5)


def test_detection_is_fgd_on_the_rebuilt_levels_and_plain_fgd_below():
    model = build('retinanet', ratio=0.5)
    data = model.data_preprocessor(h.raw_batch('retinanet', LARGE), True)
    method = model.distillation.dpk
    losses = model(**data, mode='loss')
    assert method.names == ['P3', 'P4', 'P5', 'P6', 'P7']
    assert method.inject == [1, 2, 3, 4]
    assert [stage.patch for stage in method.stages] == [4, 2, 1, 1]
    ours = model.extract_feat(data['inputs'])
    theirs = model.distillation.teachers['teacher'].model.extract_feat(data['inputs'])
    rng, pairs = torch.Generator().manual_seed(0), [(ours[0], theirs[0])]
    for stage, s, t in zip(method.stages, ours[1:], theirs[1:]):
        rows, columns = (-(-n // stage.patch) for n in t.shape[-2:])
        seed = int(torch.randint(2**62, (), generator=rng))
        scores = torch.rand(2, rows * columns, generator=torch.Generator().manual_seed(seed))
        pairs.append((stage(s, t, 0.5, scores, floor=False), t))
    expected = method.focal(pairs, data['data_samples'], data['inputs'].shape[-2:])
    for name, value in expected.items():
        assert losses[f'dpk/{name}'].item() == pytest.approx(value.item(), rel=1e-4), name


@pytest.mark.parametrize(
    ('family', 'names'),
    [
        ('retinanet', ['P4', 'P5', 'P6', 'P7']),
        ('gfl', ['P4', 'P5', 'P6', 'P7']),
        ('fcos', ['P4', 'P5', 'P6', 'P7']),
        ('rtmdet', ['P4', 'P5']),
        ('faster_rcnn', ['P4', 'P5']),
        ('mask_rcnn', ['P4', 'P5']),
        ('cascade_rcnn', ['P4', 'P5']),
        ('dino', ['P4', 'P5', 'P6']),
        ('deformable_detr', ['P4', 'P5', 'P6']),
        ('classifier', ['layer3', 'layer4']),
        ('segmentor', ['layer3', 'layer4']),
    ],
)
def test_any_family_trains(family, names):
    model = build(family)
    losses = h.losses_of(model, family, sizes=LARGE)
    ratios = [name for name in losses if name.startswith('dpk/ratio.')]
    assert ratios == [f'dpk/ratio.{name}' for name in names]
    model.parse_losses(losses)[0].backward()
    for stage in model.distillation.dpk.stages:
        assert stage.student_embed.weight.grad.abs().sum() > 0
        assert stage.teacher_embed.weight.grad.abs().sum() > 0
    gradients = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize('kind', ['swin', 'vit'])
def test_a_transformer_teaches_a_cnn(kind):
    model = build(teacher=h.transformer(kind))
    losses = h.losses_of(model, 'classifier', sizes=((224, 224), (224, 224)))
    for name in model.distillation.dpk.names:
        assert losses[f'dpk/loss_{name}'].item() > 0


def test_two_images_on_one_device_never_give_nan_and_the_ratio_moves():
    model = build('retinanet', inject=[1, 2])
    torch.manual_seed(0)
    for mine, its in zip(model.parameters(), model.distillation.teachers['teacher'].parameters()):
        its.data.copy_(mine + 0.5 * mine.detach().square().mean().sqrt() * torch.randn_like(mine))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = h.raw_batch('retinanet', ((96, 96), (96, 96)))
    seen = []
    for _ in range(6):
        data['inputs'] = [
            F.interpolate(255 * torch.rand(1, 3, 6, 6), (96, 96), mode='bilinear')[0]
            for _ in range(2)
        ]
        total, log = model.parse_losses(model(**model.data_preprocessor(data, True), mode='loss'))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        seen.append({k: float(v) for k, v in log.items()})
    for level in ('P4', 'P5'):
        ratios = [entry[f'dpk/ratio.{level}'] for entry in seen]
        assert len(set(ratios)) > 3
        assert all(0.1 <= ratio <= 0.9 for ratio in ratios)
        assert [entry[f'dpk/samples.{level}'] for entry in seen] == [2, 4, 6, 8, 8, 8]


def test_the_logged_alignment_is_that_of_the_features():
    model = build(teacher=h.classifier(16), ratio=dict(type='cka', exact=True))
    data = h.raw_batch('classifier', ((64, 64),) * 8)
    data = model.data_preprocessor(data, True)
    losses = model(**data, mode='loss')
    for name, (s, t) in zip(('layer3', 'layer4'), features(model, data['inputs'])):
        expected = cka(s.detach(), t).item()
        assert losses[f'dpk/cka.{name}'].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize('family', ['classifier', 'retinanet'])
def test_two_ranks_compute_what_one_process_computes_of_the_global_batch(family, tmp_path):
    teacher = h.classifier(16) if family == 'classifier' else h.retinanet(width=16)
    config = dict(
        type='mmkd.Distiller',
        student=h.FAMILIES[family](),
        teacher=dict(config=teacher, checkpoint='untrained'),
        methods=dict(dpk=dpk() if family == 'classifier' else dpk(inject=[1, 2])),
    )
    ranks = on_ranks(distilled_gradients, tmp_path, config, family)
    alone = distilled_gradients(0, config, family)
    for name in alone['log']:
        mean = sum(rank['log'][name] for rank in ranks) / 2
        assert mean == pytest.approx(alone['log'][name], rel=1e-4, abs=1e-6), name
    ratios = [name for name in alone['log'] if 'ratio' in name or 'samples' in name]
    assert len(ratios) == 4
    for name in ratios:
        assert ranks[0]['log'][name] == ranks[1]['log'][name]
    for name, gradient in alone['gradients'].items():
        for rank in ranks:
            difference = (rank['gradients'][name] - gradient).abs().max()
            assert difference <= 1e-4 * gradient.abs().max() + 1e-7, name


def test_teacher_energy_supplies_the_strongest_places():
    model = build(ratio=0.5, mask='teacher_energy')
    method = model.distillation.dpk
    teacher = torch.rand(2, 64, 4, 4)
    scores = method._scores(method.stages[1], teacher)
    chosen = scores.argsort(1)[:, : prior_tokens(0.5, 16)]
    energy = teacher.square().mean(1).flatten(1)
    for row, places in zip(energy, chosen):
        assert set(places.tolist()) == set(row.topk(8).indices.tolist())


def test_bf16_transforms_stay_near_fp32():
    losses = [
        h.losses_of(build(ratio=0.5, precision=p), 'classifier')['dpk/loss_layer4'].item()
        for p in ('fp32', 'bf16')
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]


@pytest.mark.parametrize(('teacher', 'same'), [('fp32', 'fp32'), ('bf16', 'bf16')])
def test_by_default_the_transform_is_as_precise_as_the_teacher(teacher, same):
    losses = {}
    for precision in ('auto', 'fp32', 'bf16'):
        model = build(teacher=h.classifier(16), ratio=0.5, precision=precision)
        model.distillation.teachers['teacher'].take(Form(precision=teacher))
        losses[precision] = h.losses_of(model, 'classifier')['dpk/loss_layer4'].item()
    assert losses['auto'] == losses[same]
    assert losses['fp32'] != losses['bf16']


def test_mask_and_ratio_go_on_after_a_resume():
    first = build(ratio='uniform')
    h.losses_of(first, 'classifier')
    second = build(ratio='uniform')
    second.distillation.dpk.resume_training(copy.deepcopy(first.distillation.dpk.training_state()))
    second.load_state_dict(first.state_dict())
    after = [h.losses_of(model, 'classifier') for model in (first, second)]
    for name in after[0]:
        assert torch.equal(after[0][name], after[1][name]), name


def test_the_default_optimizer_is_adamw_with_warm_up_and_cosine(tmp_path, shapes):
    wide, size = h.classifier(16), dict(encoder=(32, 1, 2), decoder=(32, 1, 2))
    wide.head.num_classes = 6
    cfg = h.runner_config('classifier', tmp_path, shapes)
    cfg.model = dict(
        type='mmkd.Distiller',
        student=cfg.model,
        methods=dict(dpk=dict(type='mmkd.DPK', size=[size], tap=['backbone.layer2'])),
        teacher=dict(config=wide, checkpoint='untrained'),
    )
    cfg.custom_hooks = [dict(type='mmkd.DistillationHook')]
    cfg.train_cfg.max_epochs = 5
    cfg.train_dataloader.dataset.indices = 20
    runner = Runner.from_cfg(cfg)
    runner.train()
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'DistillationHook')
    decaying, other = hook.optimizers['dpk'].param_groups
    assert decaying['betas'] == (0.9, 0.95)
    assert (decaying['weight_decay'], other['weight_decay']) == (1e-4, 0.0)
    assert all(p.dim() == 1 for p in other['params'])
    assert decaying['lr'] == pytest.approx(1e-5, rel=0.05)
    scalars = runner.message_hub.get_scalar('train/dpk/lr').data[0]
    assert max(scalars) == pytest.approx(1e-4, rel=0.01)
    assert scalars[0] == pytest.approx(1e-7, rel=0.01)


def test_an_optimizer_without_a_type_changes_the_default():
    changed = DPK(optimizer=dict(lr=1e-5)).optimizer
    assert changed == {**ADAMW, 'lr': 1e-5}
    assert [DPK(size=size).optimizer['lr'] for size in ('light', 'full')] == [1e-3, 1e-4]
    assert DPK(optimizer=dict(type='SGD', lr=1.0)).optimizer == dict(type='SGD', lr=1.0)


def test_neck_and_head_start_from_the_teacher(caplog):
    wide = h.retinanet(width=16)
    with caplog.at_level(logging.WARNING):
        model = build('retinanet', teacher=wide, inherit=['neck', 'bbox_head'])
    teacher = model.distillation.teachers['teacher'].model
    state = teacher.bbox_head.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.bbox_head.state_dict().items())
    own, theirs = model.neck.state_dict(), teacher.neck.state_dict()
    fitting = {k for k in own if own[k].shape == theirs[k].shape}
    assert all(torch.equal(own[k], theirs[k]) for k in fitting)
    assert {k for k in own if k not in fitting} == {
        f'lateral_convs.{i}.conv.weight' for i in range(3)
    } | {'fpn_convs.3.conv.weight'}


@pytest.mark.parametrize(
    ('family', 'options', 'words'),
    [
        ('classifier', dict(ratio=1.2), 'fixed: value=1.2; needed: a finite number in [0, 1]'),
        ('classifier', dict(mask='ranom'), "mask='ranom'; nearest: 'random'"),
        ('classifier', dict(precision='fp8'), "precision='fp8'"),
        ('classifier', dict(logits=-1), 'logits=-1; needed: a finite number >= 0'),
        ('classifier', dict(size=TINY), 'is for 1 stages, there are 2'),
        ('classifier', dict(size=[dict(encoder=(30, 1, 7), decoder=(8, 1, 1))] * 2), 'width=30'),
        ('classifier', dict(patch=[1, 2, 3]), 'patch=[1, 2, 3] has 3 entries; needed: 2'),
        ('classifier', dict(level_weights=[1.0]), 'level_weights=[1.0] has 1 entries; needed: 2'),
        ('classifier', dict(tap='neck'), "is a vector (1, 64), a 1x1 map; prior knowledge"),
        ('classifier', dict(tap=['backbone.layer3'], teacher_tap=['backbone.layer3', 'backbone.layer4']),
         'the student has 1 levels'),
        ('classifier', dict(temperature=0.0), 'temperature=0.0; needed: a finite number above 0'),
        ('classifier', dict(fgd=dict(alpha=1.0)), 'has no effect in classification'),
        ('retinanet', dict(level_weights=[1.0] * 4), 'level_weights=[1.0, 1.0, 1.0, 1.0] has no effect'),
        ('retinanet', dict(feature=1.0), 'feature=1.0 has no effect in detection'),
        ('classifier', dict(size=5), "size=5: needed: 'full', 'light'"),
        ('retinanet', dict(inject=[2, 1]), 'one at least, rising'),
        ('retinanet', dict(inject=[5]), 'inject=[5]; needed: indices of levels, 0 to 4'),
        ('retinanet', dict(fgd=dict(alfa=1.0)), "unknown option 'alfa'; nearest: 'alpha'"),
        ('retinanet', dict(inherit=['nek']), "the student has no part 'nek'; nearest: 'neck'"),
    ],
)  # fmt: skip
def test_wrong_input_is_answered(family, options, words):
    with pytest.raises(InputError) as error:
        build(family, **options)
    assert words in str(error.value)


def test_heads_of_other_classes_are_answered():
    teacher = h.classifier()
    teacher.head.num_classes = 7
    with pytest.raises(InputError, match='the student has 4 classes, the teacher 7'):
        build(teacher=teacher)
    assert build(teacher=teacher, logits=0).distillation.dpk.factors['logits'] == 0


SMALL = ((64, 64), (60, 50))
"""At these sizes every injected level of a detector is a single token."""


def test_levels_of_a_single_token_are_compared_by_plain_fgd_and_said_once(monkeypatch):
    said = []
    monkeypatch.setattr(method_module, 'print_log', lambda text, *args: said.append(text))
    model = build('retinanet')
    fgd = h.distiller(h.retinanet(), h.retinanet(), fgd=dict(type='mmkd.FGD'))
    h.freeze_statistics(fgd)
    ours, plain = (h.losses_of(m, 'retinanet', sizes=SMALL) for m in (model, fgd))
    for term in ('foreground', 'background', 'attention', 'relation'):
        torch.testing.assert_close(ours[f'dpk/loss_{term}'], plain[f'fgd/loss_{term}'])
    assert [line.split(': ')[1] for line in said] == ['P4', 'P5', 'P6', 'P7']
    assert 'a map of 4x4 is a single token (patch=4)' in said[0]
    h.losses_of(model, 'retinanet', sizes=SMALL)
    assert len(said) == 4


def test_parameters_of_a_transform_that_is_left_out_have_gradients_of_zero():
    model = build('retinanet')
    loss, _ = model.parse_losses(h.losses_of(model, 'retinanet', sizes=((128, 128),) * 2))
    loss.backward()
    method = model.distillation.dpk
    moved = {
        name: sum(float(p.grad.abs().sum()) for p in stage.parameters()) > 0
        for name, stage in zip(method.names[1:], method.stages)
    }
    assert moved == dict(P4=True, P5=True, P6=True, P7=False)
    h.losses_of(model, 'retinanet', sizes=LARGE)
    assert list(method.idle_parameters(0.0)) == []


def test_a_single_token_of_other_channels_goes_through_the_transform_alone():
    model = build(teacher=h.classifier(16), patch=8, ratio=0.5)
    data = model.data_preprocessor(h.raw_batch('classifier'), True)
    losses = model(**data, mode='loss')
    method = model.distillation.dpk
    for name, stage, (s, t) in zip(
        ('layer3', 'layer4'), method.stages, features(model, data['inputs'])
    ):
        expected = 0.2 * F.mse_loss(stage.alone(s, t.shape[-2:]), t)
        torch.testing.assert_close(losses[f'dpk/loss_{name}'], expected)
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert all(p.grad is not None for p in method.parameters())
    for stage in method.stages:
        assert stage.student_embed.weight.grad.any()
        assert not stage.teacher_embed.weight.grad.any()
    assert model.backbone.conv1.weight.grad.any()


def test_levels_that_can_never_have_two_tokens_are_answered():
    with pytest.raises(
        InputError, match=r'every injected level is a single token \(gap 1x1, patch'
    ):
        build('classifier', tap='neck.gap', patch=1)


def test_one_image_without_history_is_answered():
    model = build('classifier', ratio=dict(type='cka', history=False))
    with pytest.raises(InputError, match='1 images in the batch of all ranks, and history=False'):
        h.losses_of(model, 'classifier', sizes=((64, 64),))
