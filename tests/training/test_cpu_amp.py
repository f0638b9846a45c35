"""Mixed precision on CPUs trains as single precision does, within what bfloat16 can tell apart."""

import helpers as h
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper

from mmkd.training.cpu_amp import CpuAmpOptimWrapper

PAIRS = {
    'classifier': ['kd', 'dpk', 'frskd', 'sfr'],
    'retinanet': ['pkd', 'fgd', 'sfr', 'kd', 'dpk', 'frskd', 'cwd', 'at', 'fitnet'],
    'faster_rcnn': ['kd', 'frskd', 'sfr', 'dpk'],
}
QUICK = [('classifier', 'sfr'), ('retinanet', 'pkd'), ('retinanet', 'kd')]
OPTIONS = {
    'kd': dict(type='mmkd.KD'),
    'pkd': dict(type='mmkd.PKD'),
    'fgd': dict(type='mmkd.FGD'),
    'cwd': dict(type='mmkd.CWD'),
    'at': dict(type='mmkd.AT'),
    'fitnet': dict(type='mmkd.FitNet'),
    'frskd': dict(type='mmkd.FRSKD'),
    'sfr': dict(type='mmkd.SFR'),
    'dpk': dict(type='mmkd.DPK', size='light', optimizer=None),
}
KEPT = ('sfr/', 'frskd/loss_logits', 'frskd/loss_attention', 'frskd/loss_localization')
ITERATIONS = 50
TOLERANCE = 0.05
"""Of the mean total loss of the last ten iterations, relative."""


@pytest.fixture(autouse=True)
def _late():
    """Near the end of training, when every ramp has its full weight."""
    hub = MessageHub.get_current_instance()
    hub.update_info('max_iters', 10)
    hub.update_info('iter', 9)
    yield
    hub.update_info('max_iters', 0)  # nothing runs any more


def network(family):
    cfg = h.FAMILIES[family]()
    if (
        family == 'faster_rcnn'
    ):  # all proposals: an untrained RPN ranks them by less than bfloat16 tells apart
        cfg.train_cfg.rcnn.sampler.num = 512
        cfg.train_cfg.rpn_proposal.max_per_img = 1000
    return cfg


def mean_loss(family, name, mixed):
    torch.manual_seed(0)
    student, teacher = network(family), None
    if name not in ('frskd', 'sfr'):
        teacher = network(family)
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
        log = model.train_step(batch, wrapper)
        losses.append(float(log['loss']))
    assert any(float(value) > 0 for key, value in log.items() if key.startswith(f'{name}/loss'))
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
