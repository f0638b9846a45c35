"""Mixed precision on CPUs trains as single precision does, within what bfloat16 can tell apart."""

import helpers as h
import pytest
import torch
from mmengine.optim import OptimWrapper

from mmkd.amp import CpuAmpOptimWrapper

PAIRS = {
    'classifier': ['kd', 'dpk', 'frskd', 'sfr'],
    'retinanet': ['pkd', 'fgd', 'sfr'],
    'faster_rcnn': ['kd', 'frskd'],
}
QUICK = [('classifier', 'sfr'), ('retinanet', 'pkd'), ('faster_rcnn', 'kd')]
OPTIONS = {
    'kd': dict(type='mmkd.KD'),
    'pkd': dict(type='mmkd.PKD'),
    'fgd': dict(type='mmkd.FGD'),
    'frskd': dict(type='mmkd.FRSKD'),
    'sfr': dict(type='mmkd.SFR'),
    'dpk': dict(type='mmkd.DPK', size='light', optimizer=None),
}
KEPT = ('sfr/', 'frskd/loss_logits', 'frskd/loss_attention')
ITERATIONS = 50
TOLERANCE = 0.05
"""Of the mean total loss of the last ten iterations, relative."""


def mean_loss(family, name, mixed):
    torch.manual_seed(0)
    student, teacher = h.FAMILIES[family](), None
    if name not in ('frskd', 'sfr'):
        teacher = h.FAMILIES[family]()
    options = dict(OPTIONS[name])
    if name == 'dpk':
        taps = ['backbone.layer2', 'backbone.layer3']
        options |= dict(tap=taps) if family == 'classifier' else dict(inject=[1])
    model = h.freeze_statistics(h.distiller(student, teacher, **{name: options}))
    optimizer = torch.optim.SGD(model.parameters(), lr=2e-4, momentum=0.9)
    wrapper = (CpuAmpOptimWrapper if mixed else OptimWrapper)(
        optimizer, clip_grad=dict(max_norm=10.0)
    )
    losses = []
    for seed in range(ITERATIONS):
        torch.manual_seed(seed)  # samplers of boxes draw alike
        batch = h.raw_batch(family, ((96, 96),) * 2, seed % 5)
        losses.append(float(model.train_step(batch, wrapper)['loss']))
    return sum(losses[-10:]) / 10


@pytest.mark.parametrize(
    ('family', 'name'),
    [
        pytest.param(family, name, marks=() if (family, name) in QUICK else pytest.mark.slow)
        for family, names in PAIRS.items()
        for name in names
    ],
)
def test_fifty_iterations_end_alike(family, name):
    single, mixed = (mean_loss(family, name, mixed) for mixed in (False, True))
    assert mixed == pytest.approx(single, rel=TOLERANCE)
    assert mixed != single


@pytest.mark.parametrize('family', ['classifier', 'retinanet', 'faster_rcnn'])
def test_what_methods_compute_is_in_single_precision(family):
    methods = dict(sfr=dict(type='mmkd.SFR'), frskd=dict(type='mmkd.FRSKD'))
    model = h.distiller(h.FAMILIES[family](), **methods)
    with torch.autocast('cpu', torch.bfloat16):
        losses = h.losses_of(model, family)
    assert all(v.dtype == torch.float32 for k, v in losses.items() if k.startswith(KEPT))
