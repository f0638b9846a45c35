"""Training on several ranks is training in one process with the global batch."""

import helpers as h
import pytest
from rank_work import on_ranks, trained

from mmkd.ranks import rank_variables

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
    'classifier': dict(dpk=dict(DPK, tap=['backbone.layer2', 'backbone.layer3'])),
    'retinanet': dict(fgd=dict(type='mmkd.FGD'), dpk=dict(DPK, inject=[1])),
}


def configs(family):
    teacher = h.classifier(16) if family == 'classifier' else h.retinanet(width=16)
    return {
        name: dict(
            type='mmkd.Distiller', student=h.FAMILIES[family](), methods={name: method},
            **({} if name in ('frskd', 'sfr') else
               dict(teacher=dict(config=teacher, checkpoint='untrained'))),
        )
        for name, method in {**METHODS, **OWN[family]}.items()
    }  # fmt: skip


@pytest.mark.parametrize('family', ['classifier', 'retinanet'])
def test_twenty_iterations_on_two_ranks_are_those_of_one_process(family, tmp_path):
    models = configs(family)
    ranks = on_ranks(trained, tmp_path, models, family, 20)
    alone = trained(0, models, family, 20)
    far = {
        (name, key): float((rank[name][key] - value).abs().max())
        for rank in ranks
        for name, weights in alone.items()
        for key, value in weights.items()
        if not (rank[name][key] - value).abs().max() <= 1e-5
    }
    assert far == {}


def test_slurms_variables_name_the_first_node_and_a_port_of_the_job():
    slurm = {
        'SLURM_PROCID': '3',
        'SLURM_NTASKS': '4',
        'SLURM_LOCALID': '1',
        'SLURM_JOB_ID': '40123',
    }
    for nodes, first in [('n[3-5,7],m1', 'n3'), ('gpu01', 'gpu01'), ('a-b[08,10]', 'a-b08')]:
        found = rank_variables('slurm', {**slurm, 'SLURM_STEP_NODELIST': nodes})
        assert (found['MASTER_ADDR'], found['MASTER_PORT']) == (first, '20123')
