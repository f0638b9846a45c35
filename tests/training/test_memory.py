"""Nothing is kept from one iteration to the next."""

import gc
import os
from pathlib import Path

import helpers as h
import pytest
import torch
from mmengine.optim import OptimWrapper

METHODS = {
    'dpk': dict(type='mmkd.DPK', size='light', optimizer=None, tap=['backbone.layer2', 'backbone.layer3']),
    'kd': dict(type='mmkd.KD'),
    'frskd': dict(type='mmkd.FRSKD'),
    'sfr': dict(type='mmkd.SFR'),
}  # fmt: skip


def resident():
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE')


def tensors():
    gc.collect()
    return sum(isinstance(item, torch.Tensor) for item in gc.get_objects())


def trained(iterations, marks):
    """Resident memory and the number of tensors after some of the iterations."""
    model = h.distiller(h.classifier(), h.classifier(16), **METHODS)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-4))
    found = []
    for iteration in range(1, iterations + 1):
        model.train_step(h.raw_batch('classifier', ((48, 48),) * 2, iteration), wrapper)
        if iteration in marks:
            found.append((resident(), tensors()))
    return found


def test_no_tensor_is_kept_between_iterations():
    (_, early), (_, late) = trained(40, (20, 40))
    assert late == early


@pytest.mark.slow
def test_memory_is_flat_over_two_thousand_iterations():
    (memory, count), (later, later_count) = trained(2000, (400, 2000))
    assert later_count == count
    assert later <= 1.02 * memory
