"""Distillation adds no wait of a GPU for the host to a training step, and mixes no tensors of both."""

import warnings
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from fake_work import ROOT, WARM_UP, added, apart, counted, model_of, spoilt, train

from mmkd.core.method import method_names

TASKS = {
    'detection': ('retinanet', 'gfl', 'dab_detr', 'binned_detr'),
    'classification': ('classifier',),
}
KINDS = [n for n, kind in method_names().items() if kind.__module__.startswith('mmkd.')]
CODER = "boxes are decoded by the detector's own anchors and coder, whose constants are the host's"
EXCEPTIONS = {
    'bckd': (('mmdet/',), CODER),
    'crosskd': (('mmdet/',), CODER),
    'ld': (
        ('mmdet/', 'mmkd/methods/ld.py', 'index_put'),
        'the rows that count are picked by a mask',
    ),
    'golsd': (
        ('mmdet/',),
        "queries are matched with objects on the host, as in the student's own loss",
    ),
    'vfm': (
        ('core/shares.py',),
        'a share reads norms in the first ten iterations, then each hundredth',
    ),
    'sfr': (('losses/transport.py',), 'SciPy assigns on the host; the other solver does not'),
    'frskd': (('mmdet/',), "its heads have the detector's own loss, which waits as the student's"),
}
"""Where a method waits nevertheless, and why."""


@pytest.fixture(scope='module')
def device():
    with apart() as process:
        yield process


@pytest.mark.parametrize('name', KINDS)
def test_a_step_waits_no_more_often_than_the_students_own(name, device):
    """The same forward and backward on the fake device, whose operators refuse what is on the host."""
    excepted, _ = EXCEPTIONS.get(name, ((), ''))
    looked_at = 0
    for families in TASKS.values():
        found = device.submit(added, families, name).result()
        looked_at += found is not None
        waits = {w: n for w, n in (found or {}).items() if not any(file in w for file in excepted)}
        assert waits == {}
    assert looked_at, 'every family refuses the method'


def test_each_exception_is_of_a_method():
    assert {*EXCEPTIONS} <= {*KINDS}


def test_a_students_own_readings_are_seen(device):
    """So that the test above can fail."""
    found, refused = device.submit(counted).result()
    free = {'set by a mask', 'made there'}
    assert {name for name, waits in found.items() if not waits} == free
    assert 'tensors on fake:0 and on cpu' in refused


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU; benchmarks/gpu.sh runs it')
@pytest.mark.parametrize('name', [n for n in KINDS if n not in EXCEPTIONS])
def test_nor_on_a_gpu(name):
    """PyTorch itself says where a GPU is waited for; of a classifier, whose own step does not."""
    model = model_of(['classifier'], name)[1]
    if model is None:
        pytest.skip('refuses classifiers')
    model, mode = model.cuda(), SimpleNamespace(waits=Counter())
    train(model, 'classifier', mode, WARM_UP)
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter('always')
            train(model, 'classifier', mode, 1)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    ours = [w for w in found if w.filename.startswith(ROOT) and 'synchroniz' in str(w.message)]
    assert ours == []


@pytest.mark.parametrize(('steps', 'settled'), [(3, False), (2, True)])
def test_what_is_not_finite_stops_the_next_iteration_or_what_would_be_saved(steps, settled, device):
    """The second iteration is not finite."""
    with pytest.raises(FloatingPointError, match=r'not finite: spoilt/loss = nan'):
        device.submit(spoilt, steps, settled).result()
    device.submit(spoilt, steps - 1, False).result()
