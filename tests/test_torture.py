"""The harness of random attacks: a short run of it finds nothing, and it says so when something fails."""

import helpers as h
import numpy as np
import pytest
import torture
from torture import ATTACKS, FAMILIES, Failure, attempt, random_methods

from mmkd.core.method import method_names


def test_methods_are_drawn_from_all_that_a_family_can_have():
    drawn = {
        name
        for seed in range(12)
        for name in random_methods(np.random.default_rng(seed), 'classifier')
    }
    assert drawn <= set(method_names())
    assert len(drawn) > 4
    assert set(FAMILIES) <= set(h.FAMILIES)


@pytest.mark.parametrize('error', [Failure('not kept'), ValueError('no answer')])
def test_a_broken_promise_and_an_error_are_failures(error, shapes, tmp_path, monkeypatch, capsys):
    def attack(draw, shapes, work):
        raise error

    assert str(error) in attempt(attack, np.random.default_rng(0), shapes, tmp_path)
    monkeypatch.setitem(ATTACKS, 'damage', attack)
    monkeypatch.setattr(torture.time, 'monotonic', iter([0.0, 1.0, 100.0]).__next__)
    (failure,) = torture.torture(5, 1.0, ['damage'])
    assert failure.startswith('--kinds damage --seed 5: FAILED: ')
    assert '1 attacks, 1 failed' in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize('kind', ATTACKS)
def test_a_short_run_finds_nothing(kind, capfd):
    assert torture.torture(3, 0.5, [kind]) == []
