"""When ranks ask each other for signals, by a clock of the test's own."""

import pytest
import torch.distributed as dist
from rank_work import fake_ranks

from mmkd.training import watch


class Training:
    """Iterations that take as long as the test says; notes which of them ask."""

    def __init__(self, monkeypatch):
        self.now, self.asked, self.iteration = 0.0, [], 0
        monkeypatch.setattr(watch.time, 'monotonic', lambda: self.now)
        ask = dist.all_reduce
        monkeypatch.setattr(
            dist, 'all_reduce', lambda *a, **k: (self.asked.append(self.iteration), ask(*a, **k))
        )
        self.watch = watch.Watch(dist.group.WORLD)

    def run(self, iterations, pace, number=0):
        """The first iteration, counted from now, after which all know of a signal."""
        for count in range(1, iterations + 1):
            self.iteration, self.now = self.iteration + 1, self.now + pace
            if self.watch.agreed(number):
                return count
        return None


@pytest.fixture
def training(monkeypatch):
    with fake_ranks():
        yield Training(monkeypatch)


def test_ranks_ask_about_once_a_second(training):
    training.run(42, pace=0.1)
    assert training.asked == [1, 11, 21, 31, 41]


@pytest.mark.parametrize(('pace', 'most'), [(3.0, 1), (0.3, 3), (0.05, 20), (0.001, 100)])
def test_a_signal_is_known_within_a_second_or_an_iteration(training, pace, most):
    training.run(331, pace)
    assert training.run(1000, pace, number=15) <= most
    assert max(b - a for a, b in zip(training.asked, training.asked[1:])) == most


def test_iterations_that_become_slower_are_noticed_at_the_next_question(training):
    training.run(101, pace=0.01)
    training.run(200, pace=0.5)
    gaps = [after - before for before, after in zip(training.asked, training.asked[1:])]
    assert gaps[:2] == [100, 100]
    assert gaps[2:4] == [2, 2]


def test_after_a_validation_the_next_iteration_asks(training):
    training.run(5, pace=0.1)
    training.watch.soon()
    assert training.run(10, pace=0.1, number=10) == 1
