"""What is made sure of losses before they are trained."""

import pytest
import torch

from mmkd.core import checks
from mmkd.core.checks import have_weight, refuse_nonfinite


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

    def others(*lacking):
        asked.append(lacking)
        return [lacking[0], True, lacking[2]]  # another rank lacks the second

    monkeypatch.setattr(checks, 'on_any_rank', others)
    terms = [torch.tensor(0.0), torch.tensor(2.0), torch.tensor(1.0)]
    assert have_weight(terms) == [False, False, True]
    assert asked == [(True, False, False)]
    assert have_weight([]) == []
    assert len(asked) == 1
