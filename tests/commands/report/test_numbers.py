"""The verdict is that of `mmkd compare`, at the last validation that all trainings have."""

import pytest
import report_logs as logs

from mmkd import InputError
from mmkd.commands.report.numbers import last_common_step, numbers_of, seconds_per_iteration
from mmkd.commands.report.runs import name_arms, read_training
from mmkd.commands.verdicts import half_width

METRIC = 'coco/bbox_mAP'


def trainings(folder, scores, **options):
    """Trainings by arm and seed; an arm called alone is one."""
    found = []
    for arm, own in scores.items():
        for seed, score in own.items():
            path = folder / f'{arm}_{seed}'
            logs.trained(path, score, distilled=arm != 'alone', seed=seed, **options)
            found.append(read_training(path))
    name_arms(found, [])
    return found


def test_differences_are_paired_by_seed(tmp_path):
    some = trainings(tmp_path, dict(alone={0: 0.3, 1: 0.5, 2: 0.4}, dpk={0: 0.5, 1: 0.6, 2: 0.7}))
    found = numbers_of(some, {})
    alone, dpk = found.rows
    assert (found.metric, found.step, alone.arm, alone.seeds) == (METRIC, 2, 'alone', 3)
    assert dpk.difference.mean == pytest.approx(0.2)
    assert dpk.difference.low == pytest.approx(0.2 - half_width(0.1, 3))
    assert dpk.verdict == 'INCONCLUSIVE'


def test_what_became_worse_is_first(tmp_path):
    some = trainings(tmp_path, dict(alone={0: 0.3}, dpk={0: 0.35}))
    changes = numbers_of(some, {METRIC: 0.8}).changes
    assert [c.metric for c in changes] == ['coco/ring_precision', METRIC, 'coco/star_precision']
    assert [round(c.gain, 3) for c in changes] == [-0.05, 0.05, 0.05]
    assert [c.teacher for c in changes] == [None, 0.8, None]


def test_a_running_training_is_compared_where_it_is(tmp_path):
    some = trainings(tmp_path, dict(alone={0: 0.4}))
    some += trainings(tmp_path, dict(dpk={0: 0.6}), epochs=9, until=1)
    found = numbers_of(some, {})
    assert found.step == 1
    assert [row.mean for row in found.rows] == [0.2, 0.3]


def test_before_the_first_validation_there_is_nothing_to_tell(tmp_path):
    training = read_training(logs.work_dir(tmp_path, [logs.entry(5)]))
    assert numbers_of([training], {}).rows == []
    assert last_common_step([training], METRIC) is None


def test_seeds_that_differ_are_no_pairs(tmp_path):
    some = trainings(tmp_path, dict(alone={0: 0.3}, dpk={1: 0.5}))
    found = numbers_of(some, {})
    assert found.rows[1].difference is None
    assert found.changes[-1].gain == pytest.approx(0.2)


def test_twins_are_refused(tmp_path):
    some = trainings(tmp_path / 'a', dict(alone={0: 0.3}))
    some += trainings(tmp_path / 'b', dict(alone={0: 0.3}))
    with pytest.raises(InputError, match='both are alone, seed 0'):
        numbers_of(some, {})


def test_the_metric_that_is_asked_for_decides(tmp_path):
    some = trainings(tmp_path, dict(alone={0: 0.3}, dpk={0: 0.35}))
    assert numbers_of(some, {}, 'coco/ring_precision').rows[1].mean == pytest.approx(0.45)
    with pytest.raises(
        InputError, match=r"--metric AP: not validated in every run; .*'coco/bbox_mAP'"
    ):
        numbers_of(some, {}, 'AP')


def test_seconds_are_the_median_of_the_log(tmp_path):
    entries = [dict(logs.entry(i), time=t) for i, t in ((5, 9.0), (10, 0.2), (15, 0.3))]
    assert seconds_per_iteration(read_training(logs.work_dir(tmp_path, entries))) == 0.3
    assert seconds_per_iteration(read_training(logs.work_dir(tmp_path / 'b', []))) == 0
