"""Work dirs are read as they are: finished, running, stopped, resumed, torn."""

import json
import os
import time

import pytest
import report_logs as logs

from mmkd import InputError
from mmkd.commands.report.runs import QUIET, evaluated, name_arms, read_training, read_trainings


def test_a_finished_training(tmp_path):
    training = read_training(logs.trained(tmp_path / 'run', 0.4, seed=3, age=10 * QUIET))
    name_arms([training], [])
    assert (training.arm, training.seed, training.state) == ('dpk', 3, 'finished')
    assert training.progress == 'epoch 2 of 2'
    assert [e['step'] for e in training.train] == [5, 10, 15, 20]
    assert training.metric('coco/bbox_mAP') == 0.4
    assert training.metric('coco/bbox_mAP', 1) == 0.2


@pytest.mark.parametrize(('age', 'state'), [(1, 'running'), (2 * QUIET, 'stopped')])
def test_one_that_is_not_at_its_end_runs_as_long_as_it_logs(tmp_path, age, state):
    training = read_training(logs.trained(tmp_path / 'run', 0.4, epochs=9, age=age))
    assert (training.state, training.progress) == (state, 'epoch 2 of 9')


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    folder = logs.work_dir(tmp_path, [logs.entry(5), logs.entry(10)])
    log = next(folder.glob('*/vis_data/scalars.json'))
    log.write_text(log.read_text()[:-30])
    assert [e['step'] for e in read_training(folder).train] == [5]


def test_a_resumed_training_is_one(tmp_path):
    first = [logs.entry(5), logs.entry(10), logs.validation(1, 0.1), logs.entry(15, 9.0)]
    second = [logs.entry(15), logs.entry(20), logs.validation(2, 0.3)]
    logs.work_dir(tmp_path, first)
    training = read_training(logs.work_dir(tmp_path, second, attempt='20260102_000000'))
    assert training.train == [logs.entry(i) for i in (5, 10, 15, 20)]
    assert [e['step'] for e in training.val] == [1, 2]


def test_the_seed_is_in_the_log_where_the_config_has_none(tmp_path):
    folder = logs.work_dir(tmp_path, [logs.entry(5)], seed=None)
    assert read_training(folder).seed is None
    (folder / '20260101_000000/20260101_000000.log').write_text('Runtime:\n    seed: 77\n')
    assert read_training(folder).seed == 77


def test_the_last_checkpoint_tells_the_end_where_nothing_is_validated(tmp_path):
    folder = logs.work_dir(tmp_path, [logs.entry(20)], age=2 * QUIET)
    assert read_training(folder).state == 'stopped'
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_2.pth'))
    assert read_training(folder).state == 'finished'


def test_what_a_comparison_says_of_its_runs_is_taken(tmp_path):
    for name, error in (('kd_0', None), ('kd_1', 'status 1: out of memory')):
        folder = logs.trained(tmp_path / name, 0.4, epochs=9)
        result = dict(arm='kd', seed=int(name[-1]), error=error)
        (folder / 'result.json').write_text(json.dumps(result))
    good, bad = read_trainings([tmp_path], 'WORK_DIR')
    assert (good.arm, good.seed, good.error) == ('kd', 0, None)
    assert (bad.seed, bad.state, bad.error) == (1, 'stopped', 'status 1: out of memory')


def test_arms_are_methods_or_folders_where_those_are_alike(tmp_path):
    other = logs.DPK.replace("DPK'", "DPK', weight=2.0")
    folders = [logs.work_dir(tmp_path / n, [logs.entry(5)], model=m, seed=s) for n, m, s in
               (('a', logs.DPK, 0), ('b', other, 1), ('c', "dict(type='GFL')", 0))]  # fmt: skip
    alike = [logs.work_dir(tmp_path / n, [logs.entry(5)], model=logs.DPK, seed=s)
             for n, s in (('d', 0), ('e', 1))]  # fmt: skip
    for given, arms in ((folders, ['a', 'b', 'alone']), (alike, ['dpk', 'dpk'])):
        trainings = read_trainings(given, 'WORK_DIR')
        name_arms(trainings, [])
        assert [training.arm for training in trainings] == arms


def test_a_baseline_is_alone_whatever_its_config(tmp_path):
    trainings = [read_training(logs.trained(tmp_path / n, 0.4)) for n in ('a', 'b')]
    name_arms(trainings, trainings[1:])
    assert [training.arm for training in trainings] == ['dpk', 'alone']


def test_what_an_evaluation_or_a_training_has_left(tmp_path):
    logs.trained(tmp_path / 'trained', 0.4)
    assert evaluated(tmp_path / 'trained')['coco/bbox_mAP'] == 0.4
    folder = tmp_path / 'tested/20260101_000000'
    folder.mkdir(parents=True)
    (folder / '20260101_000000.json').write_text('{"coco/bbox_mAP": 0.7, "time": 0.1}')
    assert evaluated(tmp_path / 'tested') == {'coco/bbox_mAP': 0.7}


def test_a_folder_without_a_log_is_named(tmp_path):
    with pytest.raises(InputError, match=f'--baseline {tmp_path}: no training has logged there'):
        read_trainings([tmp_path], '--baseline')


def test_a_config_that_is_none_is_named(tmp_path):
    folder = logs.work_dir(tmp_path, [logs.entry(5)])
    config = next(folder.glob('*/vis_data/config.py'))
    config.write_text('model = (')
    with pytest.raises(InputError, match=r'config\.py: cannot be read'):
        read_training(folder)
    config.unlink()
    assert read_training(folder).progress == 'epoch 1'


def test_seconds_are_from_the_start_to_the_last_entry(tmp_path):
    begin = time.mktime((2026, 1, 1, 0, 0, 0, 0, 0, -1))
    folder = logs.work_dir(tmp_path, [logs.entry(5)])
    os.utime(next(folder.glob('*/vis_data/scalars.json')), (begin + 90,) * 2)
    assert read_training(folder).seconds == 90
