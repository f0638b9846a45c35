"""Differences, intervals and verdicts against an independent computation, and at their edges."""

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from mmkd.commands.verdicts import (
    MOST_SEEDS,
    Difference,
    difference,
    markdown,
    notes_of,
    rows_of,
    seeds_to_decide,
    table,
    verdict,
)

ALONE = {0: 46.9, 1: 47.8, 2: 46.1, 3: 48.0, 4: 47.2}
DPK = {0: 55.3, 1: 56.4, 2: 53.9, 3: 56.8, 4: 55.1}


@pytest.mark.parametrize('count', [2, 3, 5, 12])
@pytest.mark.parametrize('shift', [0.0, 0.8])
def test_differences_are_those_of_the_paired_t_test(count, shift):
    ours, theirs = np.random.default_rng(count).normal([shift, 0], 1.0, (count, 2)).T
    found = difference(dict(enumerate(ours)), dict(enumerate(theirs)))
    test = stats.ttest_rel(ours, theirs)
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-7)
    single = stats.ttest_1samp(ours - theirs, 0)
    assert found.mean / (found.deviation / count**0.5) == pytest.approx(single.statistic, abs=1e-6)
    assert (found.low > 0) == (single.pvalue < 0.05 and found.mean > 0)


def test_only_seeds_that_both_have_are_paired():
    found = difference({0: 5.0, 1: 7.0, 9: 100.0}, {1: 4.0, 0: 4.0, 2: -100.0})
    assert (found.mean, found.pairs) == (2.0, 2)
    assert difference({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ('low', 'mean', 'high', 'smallest', 'word'),
    [
        (0.1, 1.0, 1.9, 0.0, 'GO'),
        (0.1, 1.0, 1.9, 1.0, 'GO'),
        (0.1, 1.0, 1.9, 1.01, 'INCONCLUSIVE'),
        (0.1, 1.0, 1.9, 1.9, 'INCONCLUSIVE'),
        (0.1, 1.0, 1.9, 1.91, 'NO-GO'),
        (0.0, 1.0, 2.0, 0.0, 'INCONCLUSIVE'),
        (-2.0, -1.0, 0.0, 0.0, 'INCONCLUSIVE'),
        (-2.0, -1.0, -0.001, 0.0, 'NO-GO'),
        (-0.5, 0.0, 0.5, 1.0, 'NO-GO'),
    ],
)
def test_verdicts_at_their_edges(low, mean, high, smallest, word):
    found = verdict(Difference(mean, 1.0, 5, low, high), smallest)
    assert found[0] == word


def test_two_seeds_that_agree_give_no_verdict():
    word, reason = verdict(difference({0: 3.0, 1: 4.0}, {0: 2.0, 1: 3.0}), 0.5)
    assert (word, reason) == (
        'INCONCLUSIVE',
        'two seeds can agree by chance; 3 at least for a verdict',
    )


@pytest.mark.parametrize('smallest', [0.0, 0.3, 2.0])
@pytest.mark.parametrize('mean', [-0.4, 0.1, 0.3, 0.9])
def test_so_many_seeds_decide_and_one_less_does_not(mean, smallest):
    def after(count):
        low, high = stats.t.interval(0.95, count - 1, loc=mean, scale=1.0 / count**0.5)
        return verdict(Difference(mean, 1.0, count, low, high), smallest)[0]

    seeds = seeds_to_decide(Difference(mean, 1.0, 2), smallest)
    assert after(seeds) == ('GO' if mean >= smallest else 'NO-GO')
    assert seeds == 3 or after(seeds - 1) == 'INCONCLUSIVE'


def test_no_number_of_seeds_decides_where_there_is_no_difference():
    found = Difference(0.0, 1.0, 5, -1.24, 1.24)
    assert seeds_to_decide(found, 0.0) is None
    assert f'not even {MOST_SEEDS} seeds would decide' in verdict(found, 0.0)[1]


@pytest.mark.parametrize('found', [None, Difference(3.0, None, 1)])
def test_one_seed_gives_no_verdict_but_a_sentence(found):
    assert verdict(found, 0.0) == (
        '-',
        'no interval: it takes two seeds at least that both arms have',
    )


def test_sums_in_binary_do_not_miss_an_edge():
    """0.3 - 0.1 is a little less than 0.2."""
    found = difference(dict.fromkeys(range(3), 0.3), dict.fromkeys(range(3), 0.1))
    assert verdict(found, 0.2)[0] == 'GO'


def rows(smallest=1.0):
    scores = {
        'alone': ALONE,
        'dpk': DPK,
        'same': {0: 46.9, 1: 47.9, 2: ALONE[2] + 0.1},
        'one': {3: 49.0},
    }
    seconds = {arm: dict.fromkeys(own, 10.0) for arm, own in scores.items()}
    seconds['dpk'] = dict.fromkeys(DPK, 15.0)
    seconds['alone'][4] = 20.0
    return rows_of(scores, seconds, 'alone', smallest)


def test_a_row_has_what_the_runs_say():
    alone, dpk, same, one = rows()
    assert (alone.mean, alone.deviation) == pytest.approx((47.2, np.std([*ALONE.values()], ddof=1)))
    assert (alone.difference, alone.verdict) == (None, '')
    assert dpk.difference.mean == pytest.approx(8.3)
    assert (dpk.verdict, same.verdict, one.verdict) == ('GO', 'NO-GO', '-')
    assert (dpk.seconds_ratio, same.seconds_ratio, alone.seconds_ratio) == (75 / 60, 1.0, 1.0)
    assert one.deviation is None


def test_without_the_student_alone_there_is_no_difference():
    (row,) = rows_of({'kd': {0: 1.0}}, {'kd': {0: 2.0}}, 'alone', 0.0)
    assert (row.difference, row.seconds_ratio, row.verdict) == (None, None, '-')


def test_tables_show_the_same_numbers(capsys):
    found = rows()
    Console(width=140).print(table(found, 'accuracy/top1'))
    shown = capsys.readouterr().out
    text = markdown(found, 'accuracy/top1', notes_of(found))
    interval = stats.ttest_rel([*DPK.values()], [*ALONE.values()]).confidence_interval(0.95)
    expected = ['55.50', '+8.30', f'{interval.low:+.2f} to {interval.high:+.2f}', '1.25', 'GO']
    for words in (shown, text):
        assert all(word in words for word in expected), words
    line = next(line for line in text.splitlines() if line.startswith('| dpk'))
    assert line.count('|') == 9
    assert '- one: no interval: it takes two seeds' in text
    assert '- alone' not in text


def test_shares_of_one_have_four_digits():
    text = markdown(rows_of({'alone': {0: 0.25}}, {'alone': {0: 1.0}}, 'alone', 0.0), 'AP', [])
    assert '| alone | 0.2500 |' in text
