"""A term that has weight and is 0 all the time is said once."""

import helpers as h
import pytest
from mmengine.logging import MessageHub

import mmkd.core.silence
from mmkd.core.method import FeatureMethod
from mmkd.core.silence import PATIENCE, Silence


class Silent(FeatureMethod):
    """Zero whatever it sees."""

    def distance(self, student, teacher):
        return (student - student.detach()).sum()


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(mmkd.core.silence, 'print_log', lambda text, *args: lines.append(text))
    return lines


def test_fifty_iterations_of_zero_are_said_once(said):
    silence = Silence()
    for _ in range(PATIENCE - 1):
        silence.note('a/loss', True)
    assert said == []
    for _ in range(PATIENCE):
        silence.note('a/loss', True)
    assert len(said) == 1
    assert said[0].startswith('a/loss: 0 in each of the first 50 iterations')


def test_iterations_in_which_a_term_is_there_do_not_count(said):
    silence = Silence()
    for silent in [True, False] * (PATIENCE - 1):
        silence.note('a/loss', silent)
    assert said == []


def test_the_engine_counts_only_while_the_schedule_gives_weight(said, monkeypatch):
    monkeypatch.setattr(mmkd.core.silence, 'PATIENCE', 2)
    late = dict(type='Ramp', value=1.0, begin=0.5, until=1.0)
    model = h.distiller(h.classifier(), h.classifier(16), silent=dict(type=Silent, weight=late))
    hub = MessageHub.get_instance('silent')
    hub.update_info('max_iters', 10)
    for iteration, lines in ((0, 0), (1, 0), (2, 0), (8, 0), (9, 1), (9, 1)):
        hub.update_info('iter', iteration)
        h.losses_of(model, 'classifier')
        assert len(said) == lines, iteration
    hub.update_info('max_iters', 0)
