"""Real trainings, started as a user does, killed with SIGKILL and resumed: they end bit for bit alike."""

import re
import time

import numpy as np
import pytest
from killable import RANKS, Process, differing, final, stop_at_random, training


@pytest.mark.parametrize(
    ('case', 'kills', 'seed'),
    [
        ('short', 1, 1),
        pytest.param('kd', 4, 2, marks=pytest.mark.slow),
        pytest.param('dpk', 4, 3, marks=pytest.mark.slow),
        pytest.param('frskd', 4, 4, marks=pytest.mark.slow),
        pytest.param('sfr', 4, 5, marks=pytest.mark.slow),
        pytest.param('retinanet', 4, 6, marks=pytest.mark.slow),
        pytest.param('faster_rcnn', 4, 7, marks=pytest.mark.slow),
        pytest.param('workers', 4, 8, marks=pytest.mark.slow),
        pytest.param('passes', 3, 10, marks=pytest.mark.slow),
        pytest.param('ranks', 5, 9, marks=pytest.mark.slow),
        pytest.param('accumulated', 3, 11, marks=pytest.mark.slow),
        pytest.param('shards', 3, 12, marks=pytest.mark.slow),
    ],
)
def test_a_training_killed_at_random_ends_like_one_that_was_not(
    case, kills, seed, shapes, tmp_path
):
    cfg, ranks = training(case, shapes, tmp_path), 2 if case in RANKS else 1
    straight = Process(cfg, tmp_path / 'straight', ranks)
    assert straight.wait_for(lambda: straight.iterations()), straight.log.read_text()[-3000:]
    began = time.monotonic()
    assert straight.process.wait() == 0, straight.log.read_text()[-3000:]
    total = len(straight.iterations())
    pace = (time.monotonic() - began) / total
    draw, killed = np.random.default_rng(seed), tmp_path / 'killed'
    print(f'{case}: seed {seed}, {total} iterations, {pace:.3f} s each')
    for number in range(kills):
        rank = [None, 0, 1][number % 3] if ranks > 1 else None
        process, least = Process(cfg, killed, ranks), 1 if number else 3  # one checkpoint is there
        assert stop_at_random(process, killed, draw, least, total // (kills + 2), pace, rank)
    last = Process(cfg, killed, ranks)
    assert last.process.wait() == 0, last.log.read_text()[-3000:]
    assert 'resumed' in last.log.read_text()
    (name, ours), (other, theirs) = final(tmp_path / 'straight'), final(killed)
    assert (name, total) == (other, int(re.findall('[0-9]+', name)[0]))
    assert differing(ours, theirs) == []
