"""Distillation adds no wait of a GPU for the host to a training step, and mixes no tensors of both."""

import re
import traceback
import warnings
from collections import Counter
from types import SimpleNamespace

import helpers as h
import pytest
import torch
from fake_gpu import DEVICE, fake_gpu, to_fake
from mmengine.logging import MessageHub

from mmkd import InputError
from mmkd.core.method import FeatureMethod, method_names

FAMILIES = ('retinanet', 'gfl', 'classifier')
ROOT = str(h.ROOT / 'mmkd')
ON = dict(type='Piecewise', points=[(0, 1.0), (1, 1.0)])
"""What begins late is looked at as it is at the end of training."""
OPTIONS = {
    'dpk': dict(size='light'),
    'frskd': dict(alpha=ON, beta=ON),
    'sfr': dict(feature=ON),
}
KINDS = [n for n, kind in method_names().items() if kind.__module__.startswith('mmkd.')]
SIZES = ((64, 64), (56, 48), (64, 64))
"""Of the images of a batch: angles take three."""
CODER = "mmdet's box coder and anchors make constants on the host whenever they are asked"
EXCEPTIONS = {
    ('bckd', 'mmdet/'): CODER,
    ('crosskd', 'mmdet/'): CODER,
    ('ld', 'mmdet/'): CODER,
    ('ld', 'mmkd/methods/ld.py'): 'it counts objects and what lies around them, as assigners do',
    ('ld', 'aten.index_put'): 'the backward of that',
    (
        'vfm',
        'mmkd/core/shares.py',
    ): 'a share reads norms in the iterations that are measured: the first ten, then each hundredth',
    (
        'sfr',
        'mmkd/losses/transport.py',
    ): "SciPy assigns windows on the host; solver='sinkhorn' does not",
    (
        'frskd',
        'mmdet/',
    ): "the self-teacher's heads have the detector's own loss, which waits as the student's",
}
"""Where a method waits nevertheless, and why."""
WARM_UP = 3


def place():
    """The file of mmkd or of a toolbox that calls an operator."""
    files = [
        f for f in traceback.extract_stack() if f.filename.startswith(ROOT) or '/mm' in f.filename
    ]
    return (
        f'{files[-1].filename.replace(str(h.ROOT) + "/", "")}:{files[-1].lineno}' if files else ''
    )


def model_of(family, name):
    kind = method_names()[name]
    guide = h.widened(h.FAMILIES[family]()) if kind.needs_teacher else None
    method = dict(type=f'mmkd.{name}', **OPTIONS.get(name, {}))
    model = h.distiller(h.FAMILIES[family](), guide, **{name: method})
    model.distillation.optimizers_installed = True
    return model


def fitting(family, name):
    """The model of a method, which must refuse none but the families that it is not for."""
    try:
        return model_of(family, name)
    except InputError as error:
        if not re.search(r' is for |detection', str(error)):
            raise
        pytest.skip(str(error))


def train(model, family, mode, steps):
    """Train some steps; the waits of the last."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, 0.01, momentum=0.9)
    for _ in range(steps):
        mode.waits.clear()
        data = model.data_preprocessor(h.raw_batch(family, SIZES), True)
        loss, _ = model.parse_losses(model(**data, mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return mode.waits.copy()


@pytest.fixture(autouse=True)
def ended():
    """A hub that tells the end of training, so that all terms have weight."""
    hub = MessageHub.get_current_instance()
    hub.update_info('iter', 9), hub.update_info('max_iters', 10)
    yield
    hub.update_info('max_iters', 0)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('name', KINDS)
def test_a_step_waits_no_more_often_than_the_students_own(name, family):
    """The same forward and backward on the fake device, whose operators refuse what is on the host."""
    model = fitting(family, name)
    with fake_gpu(place) as mode:
        alone = train(h.build(h.FAMILIES[family]()).train().to(DEVICE), family, mode, 2)
        found = train(model.train().to(DEVICE), family, mode, WARM_UP)
    excepted = [file for kind, file in EXCEPTIONS if kind == name]
    added = {w: n for w, n in (found - alone).items() if not any(file in w for file in excepted)}
    assert added == {}
    assert {kind for kind, _ in EXCEPTIONS} <= {*KINDS}


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU; benchmarks/gpu.sh runs it')
@pytest.mark.parametrize('name', [n for n in KINDS if n not in {kind for kind, _ in EXCEPTIONS}])
def test_nor_on_a_gpu(name):
    """PyTorch itself says where a GPU is waited for; of a classifier, whose own step does not."""
    model, mode = fitting('classifier', name).train().cuda(), SimpleNamespace(waits=Counter())
    train(model, 'classifier', mode, WARM_UP)
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter('always')
            train(model, 'classifier', mode, 1)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert [
        w for w in found if 'synchroniz' in str(w.message) and w.filename.startswith(ROOT)
    ] == []


def test_a_students_own_readings_are_seen():
    """So that the test above can fail."""
    with fake_gpu(place) as mode:
        a = to_fake(torch.tensor([1.0, 0.0]))
        readings = [
            lambda: a[a > 0], lambda: a.sum().item(), lambda: a.nonzero(), lambda: bool(a.any()),
            lambda: a.tolist(), lambda: a.cpu(), lambda: torch.ones(2).to(DEVICE),
        ]  # fmt: skip
        for reading in readings:
            before = mode.waits.total()
            reading()
            assert mode.waits.total() > before
        before = mode.waits.total()
        a[a > 0] = 0.0
        torch.zeros(2, device=DEVICE) + a.masked_fill(a > 0, 1.0)
        assert mode.waits.total() == before
        with pytest.raises(AssertionError, match='tensors on fake:0 and on cpu'):
            a + torch.ones(2)


# -- losses that are not finite are seen one iteration later -------------------------------------------


class Spoilt(FeatureMethod):
    """Not finite from the second iteration on."""

    seen = 0

    def distance(self, student, teacher):
        self.seen += 1
        distance = (student - teacher).square().mean()
        return distance if self.seen == 1 else distance * float('nan')


def spoilt():
    model = h.distiller(h.classifier(), h.widened(h.classifier()), spoilt=dict(type=Spoilt))
    return model.train().to(DEVICE)


def test_what_is_not_finite_stops_the_next_iteration():
    with fake_gpu() as mode:
        model = spoilt()
        train(model, 'classifier', mode, 2)
        with pytest.raises(FloatingPointError, match=r'not finite: spoilt/loss = nan'):
            train(model, 'classifier', mode, 1)


def test_and_what_would_be_saved_before():
    with fake_gpu() as mode:
        model = spoilt()
        train(model, 'classifier', mode, 1)
        model.distillation.settle()
        train(model, 'classifier', mode, 1)
        with pytest.raises(FloatingPointError, match=r'not finite: spoilt/loss = nan'):
            model.distillation.settle()
        model.distillation.settle()  # said once
