"""What is made sure of losses before they are trained."""

import pytest
import torch

from mmkd.core import checks
from mmkd.core.checks import Weighty, refuse_nonfinite


def test_all_bad_terms_are_named_together():
    losses = {
        'a': torch.tensor(1.0),
        'b': [torch.tensor(float('inf'))],
        'c': torch.tensor(float('nan')),
    }
    with pytest.raises(FloatingPointError, match=r'not finite: b = inf, c = nan'):
        refuse_nonfinite(losses)


def test_a_term_has_weight_when_it_has_it_on_all_ranks_which_ask_once(monkeypatch):
    asked = []

    def others(silent):
        asked.append(silent.tolist())
        return torch.tensor([silent[0], 1.0, silent[2]])  # another rank lacks the second

    monkeypatch.setattr(checks, 'any_over_ranks', others)
    terms = {name: torch.tensor(value) for name, value in (('a', 0.0), ('b', 2.0), ('c', 1.0))}
    assert Weighty()(terms) == {'a': (False, True), 'b': (False, False), 'c': (True, False)}
    assert asked == [[1.0, 0.0, 0.0]]
    assert Weighty()({}) == {}
    assert len(asked) == 1
