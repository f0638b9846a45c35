"""Ranks whose images differ: in size, in how many boxes they have, or in having any."""

import helpers as h
import pytest
import torch
from rank_terms import counted_gradients, farthest, term_gradients, trained_on_sizes
from rank_work import on_ranks, several

SQUARE, OBLONG = (96, 96), (64, 80)
IMAGES = [(SQUARE, 3), (SQUARE, 0), (SQUARE, 2), (OBLONG, 1), (OBLONG, 0), (OBLONG, 1)]
"""One of each size on each rank, so that one process pads them to the same; the second has no box."""
NO_TEACHER = ('frskd', 'sfr', 'go_lsd')
METHODS = {
    'kd': dict(type='mmkd.KD'),
    'fgd': dict(type='mmkd.FGD'),
    'pkd': dict(type='mmkd.PKD'),
    'cwd': dict(type='mmkd.CWD'),
    'dpk': dict(type='mmkd.DPK', size='light', optimizer=None, inject=[1, 2]),
    'frskd': dict(type='mmkd.FRSKD'),
    'sfr': dict(type='mmkd.SFR'),
    'bckd': dict(type='mmkd.BCKD'),
    'cross_kd': dict(type='mmkd.CrossKD'),
    'mgd': dict(type='mmkd.MGD'),
    'ld': dict(type='mmkd.LD'),
    'kd_detr': dict(type='mmkd.KDDETR', memory=0.1),
    'go_lsd': dict(type='mmkd.GOLSD'),
}
BINS = ('ld',)
QUERIES = ('kd_detr', 'go_lsd')
TWO_STAGE = ('kd', 'dpk', 'frskd', 'sfr')


def configs(family, names):
    wide = h.FAMILIES[family](**(dict(width=16) if family == 'retinanet' else {}))
    teacher = dict(teacher=dict(config=wide, checkpoint='untrained'))
    return {
        name: dict(
            type='mmkd.Distiller', student=student(family), methods={name: METHODS[name]},
            **({} if name in NO_TEACHER else teacher),
        )
        for name in names
    }  # fmt: skip


def student(family):
    config = h.FAMILIES[family]()
    if family == 'faster_rcnn':
        config.train_cfg.rcnn.sampler.num = 512  # more than there are: none is drawn by chance
    return config


SIZES = [SQUARE, OBLONG, SQUARE]
KINDS = ('roi', 'vector', 'pixel', 'dense', 'query')
FAMILIES = {
    'retinanet': tuple(name for name in METHODS if name not in BINS + QUERIES),
    'faster_rcnn': TWO_STAGE,
    'gfl': BINS,
    'binned_detr': QUERIES,
}


@pytest.fixture(scope='module')
def on_three(tmp_path_factory):
    """By job what three ranks give: all is run at once, because starting them takes longest."""
    jobs = {('counted', kind): (counted_gradients, kind) for kind in KINDS}
    for family, names in FAMILIES.items():
        models = configs(family, names)
        jobs['terms', family] = (term_gradients, models, IMAGES)
        jobs['sizes', family] = (trained_on_sizes, models, SIZES, 3)
    jobs['synced'] = (term_gradients, {'all': together()}, IMAGES, True)
    ranks = on_ranks(several, tmp_path_factory.mktemp('three'), [*jobs.values()], ranks=3)
    return dict(zip(jobs, zip(*ranks)))


@pytest.mark.parametrize('family', FAMILIES)
def test_what_methods_add_is_that_of_one_process_though_a_rank_has_no_box(family, on_three):
    found = on_three['terms', family]
    alone = term_gradients(0, configs(family, FAMILIES[family]), IMAGES)
    shares = farthest(found, alone)
    assert {name: share for name, share in shares.items() if not share <= 1e-5} == {}
    for name, one in alone.items():
        assert all(value > 0 for value in one['terms'].values())
        for term, value in one['terms'].items():
            mean = sum(rank[name]['terms'][term] for rank in found) / len(found)
            assert mean == pytest.approx(value, rel=1e-4)
        foreground = found[1][name]['terms'].get(f'{name}/loss_foreground', 0.0)
        assert foreground == 0


def test_synchronised_batch_norm_is_that_of_one_process_though_a_rank_has_no_box(on_three):
    """Its backward asks all ranks, in the check of FGD's foreground too, which one rank lacks."""
    alone = term_gradients(0, {'all': together()}, IMAGES, True)
    assert farthest(on_three['synced'], alone)['all'] < 1e-5
    frozen = term_gradients(0, {'all': together()}, IMAGES)
    assert farthest([frozen], alone)['all'] > 1e-3


def together():
    """All methods of a RetinaNet at once, and a tap that lies before others."""
    fitnet = dict(type='mmkd.FitNet', tap='backbone.layer2')
    wide = dict(config=h.retinanet(width=16), checkpoint='untrained')
    return dict(
        type='mmkd.Distiller', student=h.retinanet(), teacher=wide,
        methods={name: METHODS[name] for name in FAMILIES['retinanet']} | dict(fitnet=fitnet),
    )  # fmt: skip


@pytest.mark.parametrize('family', FAMILIES)
def test_ranks_of_other_image_sizes_end_with_the_same_finite_weights(family, on_three):
    ranks = on_three['sizes', family]
    padded = (
        OBLONG if family == 'binned_detr' else (64, 96)
    )  # to the preprocessor's divisor, if any
    for name in FAMILIES[family]:
        assert [rank[name]['size'] for rank in ranks] == [SQUARE, padded, SQUARE]
        weights = [rank[name]['weights'] for rank in ranks]
        assert all(value.isfinite().all() for value in weights[0].values())
        assert ranks[0][name]['moved'] > 1e-4
        for other in weights[1:]:
            assert [key for key, value in weights[0].items() if not value.equal(other[key])] == []


@pytest.mark.parametrize('kind', KINDS)
def test_kd_divides_by_what_all_ranks_count(kind, on_three):
    """Ranks with different numbers of rows, and objects that the teacher expects below 1 on each."""
    both = counted_gradients(0, kind)
    mean = torch.stack(on_three['counted', kind]).mean(0)
    torch.testing.assert_close(mean, both, atol=1e-7, rtol=1e-5)
    assert both.abs().max() > 1e-3


def test_a_batch_without_any_box_trains_and_is_checked_later():
    model = h.distiller(h.retinanet(), h.retinanet(width=16), fgd=METHODS['fgd'])
    checked = model.distillation._reaching
    batch = h.raw_batch('retinanet')
    boxes = [sample.gt_instances for sample in batch['data_samples']]
    for sample in batch['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    assert float(losses['fgd/loss_foreground']) == 0
    assert 'fgd/loss_background' in checked
    assert 'fgd/loss_foreground' not in checked
    for sample, instances in zip(batch['data_samples'], boxes):
        sample.gt_instances = instances
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    assert float(losses['fgd/loss_foreground']) > 0
    assert 'fgd/loss_foreground' in checked
