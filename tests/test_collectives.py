"""Training on several ranks is training in one process with the global batch."""

import functools

import helpers as h
import pytest
import torch
from mmengine.logging import MessageHub
from rank_work import (
    distilled_gradients,
    fake_ranks,
    first_losses,
    gathered,
    on_ranks,
    pearson_gradients,
    read_unevenly,
    run,
    several,
    trained,
    uneven_maps,
    watched,
)
from torch.utils._python_dispatch import TorchDispatchMode

from mmkd import InputError, collectives
from mmkd.collectives import joined
from mmkd.core.method import method_names
from mmkd.family.taps import flatten

LATE = dict(type='Ramp', value=1.0, begin=0.4, until=0.6)
"""Zero at first: what it belongs to has no gradient then."""
METHODS = {
    'pkd': dict(type='mmkd.PKD'),
    'cwd': dict(type='mmkd.CWD'),
    'at': dict(type='mmkd.AT'),
    'kd': dict(type='mmkd.KD'),
    'fitnet': dict(type='mmkd.FitNet', tap='backbone.layer3', weight=LATE),
    'frskd': dict(type='mmkd.FRSKD', feature='fitnet', beta=LATE, alpha=LATE),
    'sfr': dict(type='mmkd.SFR'),
}
DPK = dict(type='mmkd.DPK', size='light', optimizer=None)
OWN = {
    'classifier': dict(
        dpk=dict(DPK, tap=['backbone.layer2', 'backbone.layer3']),
        dkd=dict(type='mmkd.DKD'),
        dist=dict(type='mmkd.DIST', weight=0.1),
        rkd=dict(type='mmkd.RKD', weight=0.1),  # at 1 rounding grows, as with DIST
        crd=dict(type='mmkd.CRD', images=8, negatives=16, weight=0.1),
        pskd=dict(type='mmkd.PSKD', images=8),
    ),
    'retinanet': dict(fgd=dict(type='mmkd.FGD'), dpk=dict(DPK, inject=[1])),
}


def configs(family):
    teacher = h.classifier(16) if family == 'classifier' else h.retinanet(width=16)
    return {
        name: dict(
            type='mmkd.Distiller', student=h.FAMILIES[family](), methods={name: method},
            **({} if name in ('frskd', 'sfr', 'pskd') else
               dict(teacher=dict(config=teacher, checkpoint='untrained'))),
        )
        for name, method in {**METHODS, **OWN[family]}.items()
    }  # fmt: skip


def far_from(alone, ranks):
    """What differs from one process's weights by more than 1e-5, or is not a number."""
    return {
        (name, key): float((rank[name][key] - value).abs().max())
        for rank in ranks
        for name, weights in alone.items()
        for key, value in weights.items()
        if not (rank[name][key] - value).abs().max() <= 1e-5
    }


@pytest.mark.parametrize('family', ['classifier', 'retinanet'])
def test_twenty_iterations_on_two_ranks_are_those_of_one_process(family, tmp_path):
    models = configs(family)
    ranks = on_ranks(trained, tmp_path, models, family, 20)
    assert far_from(trained(0, models, family, 20), ranks) == {}


SLOW = pytest.mark.slow
TELLING = ('pkd', 'kd', 'fitnet', 'frskd', 'dpk')
"""Those that ask other ranks, and those with terms that begin late."""


@pytest.mark.parametrize(
    ('family', 'names', 'iterations'),
    [
        ('retinanet', TELLING, 5),
        pytest.param('retinanet', (*METHODS, *OWN['retinanet']), 20, marks=SLOW),
        pytest.param('classifier', (*METHODS, *OWN['classifier']), 20, marks=SLOW),
    ],
    ids=['retinanet', 'all-retinanet', 'all-classifier'],
)
def test_three_ranks_and_a_static_graph_are_one_process(family, names, iterations, tmp_path):
    """Terms whose weight begins late do not change what DDP takes for static."""
    models = {name: config for name, config in configs(family).items() if name in names}
    if 'at' in models:  # at its 1000 one process on one and on two threads parts with six images
        models['at']['methods'] = dict(at=dict(type='mmkd.AT', weight=100.0))
    work = functools.partial(trained, images=6, static_graph=True)
    ranks = on_ranks(work, tmp_path, models, family, iterations, ranks=3)
    alone = trained(0, models, family, iterations, images=6)
    assert {*alone} == {*names}
    assert far_from(alone, ranks) == {}


@pytest.fixture(scope='module')
def on_two(tmp_path_factory, shapes):
    """What is run on two ranks at once, because starting them takes longest."""
    folder = tmp_path_factory.mktemp('two')
    jobs = [
        (run, accumulating(folder / 'ranks', shapes)),
        (first_losses, with_norms()),
        (gathered,),
        (pearson_gradients, pairs()),
        (watched,),
        (distilled_gradients, configs('retinanet')['pkd'], 'retinanet', 2),
        (read_unevenly, *large_maps()),
    ]
    return list(zip(*on_ranks(several, folder, jobs)))


def test_accumulated_gradients_on_two_ranks_are_those_of_one_process(on_two, tmp_path, shapes):
    """With a term that begins late and a method that has its own optimiser and schedule."""
    alone = run(0, accumulating(tmp_path, shapes))
    weights = [{'all': one['weights']} for one in (alone, *on_two[0])]
    assert far_from(weights[0], weights[1:]) == {}
    assert [one['steps'] for one in (alone, *on_two[0])] == [{'dpk': {6}}] * 3


def accumulating(folder, shapes):
    """12 iterations of four images, two to an update; statistics frozen."""
    cfg = h.runner_config('classifier', folder, shapes)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=12, val_interval=100)
    cfg.log_processor = dict(by_epoch=False)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=100, by_epoch=False)
    cfg.randomness = dict(seed=0)
    loader = cfg.train_dataloader
    loader.batch_size, loader.sampler.shuffle = 4, False
    loader.dataset.pipeline = [s for s in loader.dataset.pipeline if s.type != 'RandomFlip']
    cfg.optim_wrapper.update(accumulative_counts=2, clip_grad=dict(max_norm=5.0))
    cfg.model.backbone.norm_eval = True
    wide = h.classifier(16)
    wide.head.num_classes = cfg.model.head.num_classes
    stages = ['backbone.layer2', 'backbone.layer3']
    # eps: the steps of what has no gradient but rounding must not grow to the learning rate
    dpk = dict(type='mmkd.DPK', size='light', tap=stages, optimizer=dict(lr=1e-3, eps=1e-3))
    fitnet = dict(type='mmkd.FitNet', tap='backbone.layer3', weight=LATE)
    others = {name: METHODS[name] for name in ('pkd', 'kd', 'cwd', 'at', 'sfr')}
    cfg.model = dict(
        type='mmkd.Distiller', student=cfg.model,
        methods=dict(dpk=dpk, fitnet=fitnet, **others),
        teacher=dict(config=wide, checkpoint='untrained'),
    )  # fmt: skip
    cfg.custom_hooks = [dict(type='mmkd.DistillationHook')]
    return cfg


def pairs():
    """Levels with means far from 0, and one without any change."""
    rng = torch.Generator().manual_seed(0)
    sides = [torch.randn(2, 5, 3, n, n, generator=rng) for n in (6, 3)]
    sides[0][0] += 300
    sides[1][0, :, 1] = 2.0
    return [tuple(side) for side in sides]


def large_maps():
    """Maps of 20 images, larger than their sketches and alike in part."""
    rng = torch.Generator().manual_seed(0)
    student = torch.randn(20, 4, 40, 40, generator=rng)
    return student, student + torch.randn(20, 4, 40, 40, generator=rng)


def test_first_batches_of_which_ranks_have_unlike_parts_are_read_as_by_one_process(on_two):
    first, images, second, _ = wanted = read_unevenly(0, *large_maps())
    assert 0.3 < first < 0.7
    assert first != second  # twenty images have shorter sketches than the eight that are wanted
    assert images == 20
    for found in on_two[6]:
        assert found == pytest.approx(wanted, rel=1e-6)


def test_maps_of_other_sizes_are_gathered_level_by_level(on_two):
    levels = zip(*(uneven_maps(rank) for rank in range(2)))
    wanted = [joined(level) for level in levels]
    assert [tuple(level.shape) for level in wanted] == [(3, 2, 4, 4), (3, 5, 2, 3)]
    for found in on_two[2]:
        assert all(ours.equal(level) for ours, level in zip(found, wanted))


def test_pearsons_distances_and_gradients_are_those_of_one_process(on_two):
    distances, gradients = pearson_gradients(0, pairs())
    for found, _ in on_two[3]:
        torch.testing.assert_close(found, distances, rtol=1e-6, atol=1e-6)
    for level, whole in enumerate(gradients):
        ranks = torch.cat([found[level] for _, found in on_two[3]]) / 2  # as DDP averages
        torch.testing.assert_close(ranks, whole, rtol=1e-4, atol=1e-7)
        assert whole.abs().max() > 1e-4


def test_a_gradient_share_is_that_of_one_process_on_every_rank(on_two):
    alone = distilled_gradients(0, configs('retinanet')['pkd'], 'retinanet', 2)['log']['pkd/share']
    assert 0 < alone < 1
    assert [found['log']['pkd/share'] for found in on_two[5]] == [
        pytest.approx(alone, rel=1e-4)
    ] * 2


def test_ranks_learn_of_a_signal_in_the_same_iteration(on_two):
    first, second = on_two[4]
    assert first == second
    assert first[-1] == 15
    assert set(first[:-1]) == {0}


def test_sync_bn_is_plain_bn_without_ranks_and_answered_on_cpu_ranks(on_two):
    for answers in on_two[1]:
        assert isinstance(answers['BN'], float)
        for kind in ('SyncBN', 'MMSyncBN'):
            words = f"norm_cfg=dict(type='{kind}'): backbone.bn1 of the student and 19 more; on CPU"
            assert answers[kind].startswith(words)
    models = with_norms()
    models.pop('MMSyncBN')  # mmcv cannot build it without ranks
    alone = first_losses(0, models)
    assert alone['SyncBN'] == alone['BN'] > 0


def with_norms():
    models = {}
    for kind in ('BN', 'SyncBN', 'MMSyncBN'):
        student = h.classifier()
        student.backbone.norm_cfg = dict(type=kind)
        models[kind] = dict(
            type='mmkd.Distiller', student=student, methods=dict(kd=dict(type='mmkd.KD')),
            teacher=dict(config=h.classifier(16), checkpoint='untrained'),
        )  # fmt: skip
    return models


def test_ranks_draw_the_rows_of_one_process(monkeypatch):
    whole = collectives.drawn(torch.Generator().manual_seed(1), 4, 3)
    monkeypatch.setattr(collectives, 'world_size', lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(collectives, 'rank', lambda rank=rank: rank)
        generator = torch.Generator().manual_seed(1)
        assert torch.equal(collectives.drawn(generator, 2, 3), whole[rank::2])
        other = torch.Generator().manual_seed(1)
        collectives.drawn(other, 2, 77)
        assert torch.equal(generator.get_state(), other.get_state())


class Exchanges(TorchDispatchMode):
    """Notes what ranks ask of each other, in backward passes too."""

    def __init__(self):
        super().__init__()
        self.seen, self.bytes = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace in ('c10d', '_c10d_functional'):
            self.seen.append(func.__name__)
            # gathering names what comes in first, then what is given
            given = args[1] if 'allgather' in func.__name__ else args[0]
            self.bytes += sum(tensor.nbytes for tensor in flatten(given))
        return func(*args, **(kwargs or {}))


SHIPPED = {name: m for name, m in method_names().items() if m.__module__.startswith('mmkd.')}
OPTIONS = {
    'dpk': dict(size='light', inject=[0, 1]),
    'crd': dict(images=8, negatives=16),
    'pskd': dict(images=8),
}
CHECKED = {'crosskd': 2}
"""Terms whose backward pass asks other ranks."""
ALLOWED = 2
SIZES = ((96, 96), (96, 96))


def exchanges(family, name, steps=2, size=lambda found: len(found.seen)):
    """How often ranks ask each other in each step of a method with all its terms; None of another task."""
    teacher = None
    if name and SHIPPED[name].needs_teacher:
        teacher = h.FAMILIES[family](width=16)
    methods = {name: dict(type=SHIPPED[name], **OPTIONS.get(name, {}))} if name else {}
    try:
        model = h.distiller(h.FAMILIES[family](), teacher, **methods) if name else h.build(
            h.FAMILIES[family]()
        )  # fmt: skip
    except InputError as error:
        if ' is for ' not in str(error):
            raise
        return None
    if name:
        model.distillation.optimizers_installed = True
    counts = []
    for _ in range(steps):
        with Exchanges() as found:
            model.parse_losses(h.losses_of(model, family, sizes=SIZES))[0].backward()
        counts.append(size(found))
    return counts


@pytest.fixture
def late():
    """Every ramp has begun."""
    hub = MessageHub.get_current_instance()
    hub.update_info('max_iters', 10)
    hub.update_info('iter', 9)
    yield
    hub.update_info('max_iters', 0)


TELLING = {'dpk', 'crd', 'dist', 'rkd', 'pkd', 'pskd', 'crosskd'}
"""What compares or remembers the images of all ranks, or is normalised over them by each channel."""


@pytest.mark.parametrize('name', sorted({*SHIPPED} - TELLING))
def test_what_a_method_tells_other_ranks_are_a_few_numbers(name, late):
    """Counts of objects, by which losses are divided; after the first step."""
    for family in ('classifier', 'retinanet'):
        with fake_ranks():
            own, found = (exchanges(family, n, size=lambda f: f.bytes) for n in (None, name))
        if found is not None:
            assert found[1] - own[1] <= 64


@pytest.mark.parametrize('family', ['classifier', 'retinanet'])
@pytest.mark.parametrize('name', SHIPPED)
def test_a_step_of_a_method_adds_two_exchanges_at_most(name, family, late):
    with fake_ranks():
        own, found = exchanges(family, None), exchanges(family, name)
    if found is None:
        pytest.skip('of another task')
    first, then = (count - student for count, student in zip(found, own))
    assert then <= ALLOWED
    # which of its terms have weight, all at once; its share; and the backward passes of both
    assert first <= then + 2 + 2 * CHECKED.get(name, 0)
