"""The student's own losses off: heads stay as they are, what a method reads is trained."""

import helpers as h
import pytest
import torch
from mmengine.structures import InstanceData
from rank_work import on_ranks, trained
from torch import nn

from mmkd import InputError
from mmkd.core.method import method_names
from mmkd.core.unlabelled import freeze_unreached, nothing
from mmkd.family.taps import Tap

PKD = dict(type='mmkd.PKD', weight=1.0)


def unlabelled(family='retinanet', teacher=None, **methods):
    model = h.distiller(
        h.FAMILIES[family](),
        teacher or h.FAMILIES[family](),
        labels=False,
        **methods or {'pkd': PKD},
    )
    return model.train()


def bare(family):
    """A batch of images alone, as a folder gives them."""
    raw = h.raw_batch(family)
    samples = [type(sample)(metainfo=sample.metainfo) for sample in raw['data_samples']]
    for sample in samples if family not in ('classifier', 'segmentor') else ():
        sample.gt_instances = InstanceData()  # as the pipeline packs none
    return dict(raw, data_samples=samples)


def step(model, family, optimizer):
    data = model.data_preprocessor(bare(family), True)
    losses = model(**data, mode='loss')
    optimizer.zero_grad()
    model.parse_losses(losses)[0].backward()
    optimizer.step()
    return losses


@pytest.mark.parametrize('family', sorted(h.FAMILIES))
def test_heads_stay_bit_for_bit_and_the_rest_learns(family):
    model = unlabelled(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    losses = [step(model, family, optimizer) for _ in range(6)]
    assert all([term for term in one if 'loss' in term] == ['pkd/loss'] for one in losses)
    assert losses[-1]['pkd/loss'] < losses[0]['pkd/loss']
    changed = {
        n.split('.')[0] for n, v in model.state_dict().items() if not torch.equal(v, before[n])
    }
    own = {name for name in changed if name != 'distillation'}
    detects = hasattr(model, 'neck') and family != 'classifier'
    assert own == ({'backbone', 'neck'} if detects else {'backbone'})


def test_parameters_that_nothing_depends_on_are_frozen():
    net = nn.Module()
    model = unlabelled()
    frozen = {n.split('.')[0] for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {'bbox_head'} | {n for n in frozen if n == 'backbone'}
    net = h.build(h.retinanet())
    assert freeze_unreached(net, [Tap('backbone')], 64) == len(
        [*net.neck.parameters(), *net.bbox_head.parameters()]
    )
    assert net.training


def test_logits_of_a_dense_head_are_read_and_trained():
    model = unlabelled('gfl', kd=dict(type='mmkd.KD'))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = model.bbox_head.gfl_cls.weight.clone()
    assert step(model, 'gfl', optimizer)['kd/loss'] > 0
    assert not torch.equal(model.bbox_head.gfl_cls.weight, before)


@pytest.mark.parametrize(
    ('family', 'method', 'words'),
    [
        ('retinanet', dict(type='mmkd.FGD'), 'FGD looks at the objects'),
        (
            'retinanet',
            dict(type='mmkd.DPK', size='light', optimizer=None),
            '(FGD) looks at the objects',
        ),
        ('faster_rcnn', dict(type='mmkd.KD'), 'boxes that are sampled around objects'),
        ('dino', dict(type='mmkd.KD'), 'queries made of objects'),
        ('retinanet', dict(type='mmkd.PKD', weight='auto'), "weight='auto' measures"),
    ],
)
def test_what_reads_labels_is_refused_in_one_sentence(family, method, words):
    message = h.message_of(lambda: unlabelled(family, one=method))
    assert 'methods.one: ' in message
    assert words in message
    assert 'take a feature method' in message


@pytest.mark.parametrize('name', ['SFR', 'FRSKD'])
def test_methods_without_a_teacher_need_labels(name):
    student = h.classifier()
    student.backbone.out_indices = (0, 1, 2, 3)
    message = h.message_of(
        lambda: h.distiller(student, labels=False, one=dict(type=f'mmkd.{name}', optimizer=None))
    )
    assert 'without labels' in message


def test_dpk_rebuilds_a_classifiers_maps_without_labels():
    model = unlabelled(
        'classifier', dpk=dict(type='mmkd.DPK', size='light', optimizer=None, logits=0.0)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    assert step(model, 'classifier', optimizer)['dpk/loss_layer4'] > 0


def test_at_weight_zero_nothing_is_trained_and_the_loss_is_zero():
    model = unlabelled(pkd=dict(type='mmkd.PKD', weight=0.0))
    losses = model(**model.data_preprocessor(bare('retinanet'), True), mode='loss')
    assert losses['loss_none'] == 0
    model.parse_losses(losses)[0].backward()
    assert all(
        p.grad is not None and not p.grad.any() for p in model.parameters() if p.requires_grad
    )
    assert nothing(nn.Linear(2, 2))['loss_none'] == 0


def test_evaluation_is_the_students():
    model = unlabelled()
    plain = h.build(h.retinanet())
    plain.load_state_dict(
        {n: v for n, v in model.state_dict().items() if not n.startswith('distillation.')}
    )
    data = model.data_preprocessor(h.raw_batch('retinanet'), False)
    with torch.no_grad():
        got, want = (m.eval()(**data, mode='tensor') for m in (model, plain))
    assert all(torch.equal(a, b) for g, w in zip(got, want) for a, b in zip(g, w))


@pytest.mark.parametrize('family', ['classifier', 'gfl', 'faster_rcnn', 'segmentor'])
@pytest.mark.parametrize('name', sorted(method_names()))
def test_every_method_learns_from_images_alone_or_says_why_not(name, family):
    kind = method_names()[name]
    options = {'optimizer': None} if name in ('dpk', 'frskd') else {}
    options |= {'images': 8} if name == 'crd' else {}
    method = dict(type=f'mmkd.{kind.__name__}', **options)
    teacher = h.widened(h.FAMILIES[family]()) if family == 'classifier' else h.FAMILIES[family]()
    given = teacher if kind.needs_teacher else None
    refused = ''
    try:
        model = h.distiller(h.FAMILIES[family](), given, labels=False, one=method).train()
    except InputError as error:
        refused = str(error)
    assert '\n' not in refused
    if refused:
        return
    losses = model(**model.data_preprocessor(bare(family), True), mode='loss')
    assert model.parse_losses(losses)[0] > 0


def test_two_ranks_train_what_one_process_does(tmp_path):
    """DDP waits for every gradient; what is frozen is none of its business."""
    teacher = dict(config=h.retinanet(width=16), checkpoint=str(tmp_path / 't.pth'))
    torch.save(h.build(teacher['config']).state_dict(), teacher['checkpoint'])
    config = dict(
        type='mmkd.Distiller',
        student=h.retinanet(),
        teacher=teacher,
        methods=dict(pkd=PKD),
        labels=False,
    )
    given = (dict(one=config), 'retinanet', 2)
    alone = trained(0, *given)['one']
    for rank in on_ranks(trained, tmp_path, *given):
        for name, value in rank['one'].items():
            torch.testing.assert_close(value, alone[name], rtol=1e-4, atol=1e-5)
