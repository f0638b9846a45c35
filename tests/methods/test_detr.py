"""KD-DETR on real transformers: what decoders say to the same queries, against twins that are given them."""

import copy

import helpers as h
import numpy as np
import pytest
import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from scipy.special import expit, rel_entr, softmax

import mmkd.methods.detr as module
from mmkd import InputError
from mmkd.core.forms import Form
from mmkd.family.decoding import POINTS

KD_DETR = dict(type='mmkd.KDDETR')
FAMILIES = {
    'detr': h.detr,
    'conditional_detr': h.conditional_detr,
    'dab_detr': h.dab_detr,
    'deformable_detr': h.deformable_detr,
    'dino': h.dino,
}


def still(make, layers=2):
    """A family's config without dropout."""
    cfg = make()
    for part in (cfg.encoder, cfg.decoder):
        for options in part.layer_cfg.values():
            conditional = 'attn_drop' in options
            options.update(dict.fromkeys([name for name in options if 'drop' in name], 0.0))
            if not conditional:
                options['ffn_drop' if 'feedforward_channels' in options else 'dropout'] = 0.0
    cfg.decoder.num_layers = layers
    return cfg


@pytest.fixture
def asked(monkeypatch):
    """Which decoder was asked which queries, in turn."""
    found = []

    def spy(model, features, queries):
        found.append((model, queries))
        return decode(model, features, queries)

    decode = module.decode
    monkeypatch.setattr(module, 'decode', spy)
    return found


def distilled(student, teacher, **options):
    """A Distiller in training whose predictions hang on nothing but weights; heads are not at zero."""
    model = h.distiller(student, teacher, kd=dict(KD_DETR, **options)).train()
    for network in (model, model.distillation.teachers['teacher'].model):
        for name, p in network.named_parameters():
            if name.startswith('bbox_head'):
                torch.nn.init.normal_(p, std=0.2)
    return h.freeze_statistics(model)


def answers(model, batch, queries=None):
    """All that a copy of a model finds when its own way of making queries gives these."""
    config = model.distillation if hasattr(model, 'distillation') else None
    twin = copy.deepcopy(model).eval()
    assert config is None or not hasattr(twin, 'distillation')
    own = twin.pre_decoder

    def pre_decoder(*args, **kwargs):
        inputs, head = own(*args, **kwargs)
        return inputs | dict(queries or {}), head

    twin.pre_decoder = pre_decoder
    with torch.no_grad():
        return [found.double().numpy() for found in twin(**batch, mode='tensor')]


def expected(ours, theirs, sigmoid):
    """The three terms, layer by layer and query by query."""
    totals = np.zeros(3)
    layers = min(len(ours[0]), len(theirs[0]))
    for s, b, t, u in zip(*(side[-layers:] for side in (*ours, *theirs))):
        if sigmoid:
            p, q = expit(t), expit(s)
            sure, classes = p.max(-1), (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).sum(-1)
        else:
            p, q = softmax(t, -1), softmax(s, -1)
            sure, classes = p[..., :-1].max(-1), rel_entr(p, q).sum(-1)
        boxes = [bbox_cxcywh_to_xyxy(torch.tensor(side).flatten(0, 1)) for side in (b, u)]
        giou = bbox_overlaps(*boxes, mode='giou', is_aligned=True).numpy().reshape(sure.shape)
        apart = (classes, 5 * abs(b - u).sum(-1), 2 * (1 - giou))
        totals += [(sure * term).sum() / max(sure.sum(), 1) for term in apart]
    return totals


def check(model, batch, losses, asked):
    teacher = model.distillation.teachers['teacher'].model
    sigmoid = model.bbox_head.loss_cls.use_sigmoid
    totals = np.zeros(3)
    sets = [queries for network, queries in asked if network is model]
    for queries in sets:
        totals += expected(
            answers(model, batch, queries), answers(teacher, batch, queries), sigmoid
        )
    found = [losses[f'kd/loss_{term}'].item() for term in ('classes', 'l1', 'giou')]
    assert found == pytest.approx(list(totals), rel=1e-3)
    return sets


@pytest.mark.parametrize('family', FAMILIES)
def test_both_are_asked_the_teachers_queries_and_random_ones(family, asked):
    config = still(FAMILIES[family])
    model = distilled(config, copy.deepcopy(config), random=7)
    batch = model.data_preprocessor(h.raw_batch(family), True)
    own, others = check(model, batch, model(**batch, mode='loss'), asked)
    teacher = model.distillation.teachers['teacher'].model
    plain = answers(teacher, batch)
    for found, right in zip(answers(teacher, batch, own), plain):
        np.testing.assert_allclose(found, right, atol=1e-5)
    assert own.keys() == others.keys() <= {*POINTS}
    assert {len(value[0]) for value in others.values()} == {7}
    moved = {name for name in own if not torch.equal(own[name][:, :7], others[name])}
    assert len(moved) == 1
    points = others[moved.pop()]
    if family in ('dab_detr', 'deformable_detr', 'dino'):
        points = points.sigmoid() if family == 'dab_detr' else points
        assert points.min() >= 0.01
        assert points.max() <= 0.99
        assert points.std() > 0.2
    assert not torch.equal(points[0], points[1])


def test_layers_are_paired_from_the_last(asked):
    model = distilled(still(h.detr, 2), still(h.detr, 3), random=0)
    batch = model.data_preprocessor(h.raw_batch('detr'), True)
    assert len(check(model, batch, model(**batch, mode='loss'), asked)) == 1


@pytest.mark.parametrize('family', FAMILIES)
def test_every_term_trains_the_student(family):
    config = still(FAMILIES[family])
    model = distilled(config, copy.deepcopy(config), memory=0.5)
    losses = h.losses_of(model, family)
    for term in ('classes', 'l1', 'giou', 'memory'):
        model.zero_grad()
        losses[f'kd/loss_{term}'].backward(retain_graph=True)
        parts = {
            part: [p.grad for p in getattr(model, part).parameters() if p.grad is not None]
            for part in ('backbone', 'encoder', 'decoder')
        }
        assert all(grad.isfinite().all() for grads in parts.values() for grad in grads)
        for part in {*parts} - ({'decoder'} if term == 'memory' else set()):
            assert sum(grad.abs().sum() for grad in parts[part]) > 0, (term, part)


def test_a_fresh_student_whose_boxes_begin_at_zero_is_trained():
    model = h.distiller(h.deformable_detr(), h.deformable_detr(), kd=KD_DETR).train()
    model.parse_losses(h.losses_of(model, 'deformable_detr'))[0].backward()
    assert model.bbox_head.reg_branches[0][-1].weight.grad.abs().sum() > 0


def test_terms_without_weight_are_left_out():
    model = h.distiller(h.detr(), h.detr(), kd=dict(KD_DETR, classes=0.0, giou=0.0)).train()
    assert [k for k in h.losses_of(model, 'detr') if '/loss' in k] == ['kd/loss_l1']


def test_memories_correlate():
    config = still(h.deformable_detr)
    model = distilled(config, copy.deepcopy(config), memory=0.5)
    batch = model.data_preprocessor(h.raw_batch('deformable_detr', ((64, 64),) * 2), True)
    memories = []
    for network in (model, model.distillation.teachers['teacher'].model):
        network.encoder.register_forward_hook(lambda *args: memories.append(args[2].detach()))
    loss = model(**batch, mode='loss')['kd/loss_memory'].item()
    s, t = (side.double().flatten(0, 1).T.numpy() for side in memories)
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(s, t)]
    assert loss == pytest.approx(0.5 * (1 - np.mean(correlations)), rel=1e-3)


def test_a_teacher_in_a_fast_form_answers_nearly_the_same():
    """bfloat16 has three digits."""
    found = []
    for form in (Form(), Form(precision='bf16')):
        torch.manual_seed(0)
        config = still(h.detr)
        model = distilled(config, copy.deepcopy(config))
        model.distillation.teachers['teacher'].take(form)
        losses = h.losses_of(model, 'detr')
        found.append([losses[f'kd/loss_{term}'].item() for term in ('classes', 'l1', 'giou')])
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], rel=0.05)


def test_random_points_go_on_where_they_were(asked):
    config = still(h.detr)
    models = [distilled(config, copy.deepcopy(config), random=3) for _ in range(2)]
    batches = [model.data_preprocessor(h.raw_batch('detr'), True) for model in models]
    models[0](**batches[0], mode='loss')
    models[1].distillation.kd.resume_training(models[0].distillation.kd.training_state())
    asked.clear()
    for model, batch in zip(models, batches):
        model(**batch, mode='loss')
    points = [
        q['query_pos'] for network, q in asked if network in models and len(q['query'][0]) == 3
    ]
    assert torch.equal(*points)


def narrow():
    cfg = h.dab_detr()
    cfg.decoder.query_dim = 2
    cfg.decoder.with_modulated_hw_attn = False
    return cfg


def other_classes():
    cfg = h.detr()
    cfg.bbox_head.num_classes = 7
    return cfg


def three_levels():
    cfg = h.deformable_detr()
    cfg.num_feature_levels = cfg.neck.num_outs = 3
    for part in (cfg.encoder.layer_cfg.self_attn_cfg, cfg.decoder.layer_cfg.cross_attn_cfg):
        part.num_levels = 3
    return cfg


@pytest.mark.parametrize(
    ('student', 'teacher', 'options', 'words'),
    [
        (h.retinanet, h.retinanet, {}, 'KDDETR is for a head of queries, the student .* a dense head'),
        (h.detr, h.faster_rcnn, {}, 'KDDETR is for a head of queries, the teacher .* a RoI head'),
        (h.detr, h.dab_detr, {}, 'KDDETR: the student has a softmax head, the teacher a sigmoid head'),
        (h.dino, h.deformable_detr, {}, 'a query of the student is query of 32 numbers, reference_points'),
        (h.dab_detr, narrow, {}, 'query_pos of 4 numbers, one of the teacher .* query_pos of 2 numbers'),
        (h.detr, other_classes, {}, 'class count mismatch: the student has 4 classes, the teacher 7'),
        (h.deformable_detr, three_levels, dict(memory=1.0), r'KDDETR: memory=1.0: the encoder of the student'),
    ],
)  # fmt: skip
def test_other_pairs_are_answered(student, teacher, options, words):
    with pytest.raises(InputError, match=words) as error:
        h.distiller(student(), teacher(), kd=dict(KD_DETR, **options))
    assert '\n' not in str(error.value)


def test_a_cached_teacher_is_refused(tmp_path):
    options = dict(config=h.detr(), checkpoint='untrained', cache=str(tmp_path))
    with pytest.raises(InputError, match=r'KDDETR runs parts of the teacher .* leave cache of the'):
        h.distiller(h.detr(), options, kd=KD_DETR)


def test_without_labels_it_is_refused():
    with pytest.raises(InputError, match='which are trained with labels alone'):
        h.distiller(h.detr(), h.detr(), labels=False, kd=KD_DETR)
