import torch
from fake_gpu import DEVICE, fake_gpu

from mmkd.core.readings import Readings
from mmkd.methods.dpk.ratios import CKARatio


def test_a_device_is_read_one_iteration_later_and_never_waited_for():
    with fake_gpu() as mode:
        readings, found = Readings(), []
        for value in (1.0, 2.0, 3.0):
            numbers = torch.full((1,), value, device=DEVICE) * 1.0
            found.append(readings(['a'], numbers))
        assert found == [{}, {'a': 1.0}, {'a': 2.0}]
        assert mode.waits.total() == 0
        assert readings.rest() == {'a': 3.0}
        assert readings.rest() == {}


def test_dpks_ratio_is_that_of_the_iteration_before_on_a_device():
    batches = [tuple(torch.randn(8, 4, 2, 2) for _ in range(2)) for _ in range(3)]
    rng = torch.Generator()
    here = CKARatio()
    wanted = [here([pair], 0.0, rng)[0].ratio for pair in batches]
    with fake_gpu() as mode:
        there = CKARatio()
        found = []
        for pair in batches:
            on_device = tuple(side.to(DEVICE) for side in pair)
            before = mode.waits.total()
            found.append(there([on_device], 0.0, rng)[0].ratio)
            assert mode.waits.total() == before
    assert found == [there.fallback, *wanted[:2]]
