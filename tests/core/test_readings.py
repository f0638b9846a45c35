import pytest
from fake_work import apart, late, late_ratios


@pytest.fixture(scope='module')
def device():
    with apart() as process:
        yield process


def test_a_device_is_read_one_iteration_later_and_never_waited_for(device):
    found, waits, rest = device.submit(late).result()
    assert found == [{}, {'a': 1.0}, {'a': 2.0}]
    assert waits == 0
    assert rest == {'a': 3.0}


def test_dpks_ratio_is_that_of_the_iteration_before_on_a_device(device):
    found, wanted = device.submit(late_ratios).result()
    assert found == wanted
