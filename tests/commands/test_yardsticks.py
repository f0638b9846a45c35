"""The student beside its teacher and the student alone, at the same epoch."""

import json

import helpers as h
import pytest

from mmkd import InputError
from mmkd.commands import yardsticks
from mmkd.commands.teacher_check import Check, TeacherCheckHook
from mmkd.commands.train import train, training_config
from mmkd.commands.yardsticks import Yardsticks

METRIC = 'coco/bbox_mAP'


def logged(folder, *entries):
    path = folder / '20260101_000000/vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(json.dumps(entry) for entry in entries) + '\n{"coco/bb')
    return folder


@pytest.fixture
def known(tmp_path):
    guide = TeacherCheckHook()
    guide.found = Check(64, METRIC, {'teacher': 0.4}, metrics={METRIC: 0.4})
    alone = logged(
        tmp_path / 'alone',
        dict(lr=0.1, loss=2.0, step=3),
        {METRIC: 0.11, 'step': 1},
        {METRIC: 0.22, 'coco/bbox_mAP_50': 0.3, 'time': 0.1, 'step': 3},
    )
    return Yardsticks(guide, alone)


def test_all_are_of_one_metric_and_the_same_epoch(known):
    student = {METRIC: 0.25, 'coco/bbox_mAP_50': 0.5}
    assert known.rows(student, 3) == [
        ['', 'student', 'alone', 'teacher (64 images)'],
        [METRIC, '0.25', '0.22', '0.4'],
        ['coco/bbox_mAP_50', '0.5', '0.3', '-'],
    ]
    # where the student alone was not validated, or is not yet, its column is missing
    assert known.rows(student, 2)[0] == ['', 'student', 'teacher (64 images)']


def test_a_folder_without_a_training_is_answered(tmp_path):
    with pytest.raises(InputError, match=r'--baseline .*: no training has logged there'):
        Yardsticks(baseline=tmp_path).refuse_no_baseline()


def test_a_training_says_after_each_validation_where_it_stands(shapes, tmp_path, monkeypatch):
    """A real student alone, then a distilled one beside it."""
    configs = [h.runner_config('classifier', tmp_path / name, shapes) for name in ('alone', 'own')]
    for cfg in configs:
        cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
        cfg.optim_wrapper.optimizer.lr = 1e-9
        cfg.randomness = dict(seed=0)
    configs[0].dump(tmp_path / 'teacher.py')
    train(training_config(configs[0]))
    said = []
    monkeypatch.setattr(yardsticks, 'print_log', lambda text, *rest: said.append(text))
    cfg = training_config(configs[1], method='pkd', teacher=str(tmp_path / 'teacher.py'),
                          checkpoint=str(tmp_path / 'alone/epoch_2.pth'), check_teacher=1000)  # fmt: skip
    train(cfg, baseline=str(tmp_path / 'alone'))
    path = next((tmp_path / 'own').glob('*/vis_data/scalars.json'))
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    own = [entry['accuracy/top1'] for entry in entries if 'accuracy/top1' in entry]
    assert len(own) == len(said) == 2
    content = json.loads((tmp_path / 'own/summary.json').read_text())
    check = content['teacher_check']
    for value, text in zip(own, said):
        assert text == (
            f'accuracy/top1: student {value:.4g}, alone {own[0]:.4g}, teacher ({check["images"]} images) '
            f'{check["teachers"]["teacher"]:.4g}'
        )  # fmt: skip
    # at this rate nothing is learnt: the teacher, which is the student alone, has nothing to teach
    assert check['teachers']['teacher'] == own[0]
