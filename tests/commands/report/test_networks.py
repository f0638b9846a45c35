"""Networks of finished trainings are what their checkpoints hold, and see the images of their validation."""

from __future__ import annotations

import helpers as h
import pytest
import report_logs as logs
import torch

from mmkd import InputError
from mmkd.commands.report.networks import (
    Data,
    chosen_trainings,
    load_networks,
    predictions,
    validation_data,
)
from mmkd.commands.report.numbers import numbers_of
from mmkd.commands.report.runs import QUIET


@pytest.fixture
def runs(shapes, tmp_path):
    return logs.with_networks(tmp_path, shapes)


def test_weights_are_the_checkpoints_those_of_the_method_too(runs):
    file = runs / 'distilled/epoch_2.pth'
    saved = torch.load(file)
    for value in saved['state_dict'].values():
        value.add_(1)
    torch.save(saved, file)
    networks = load_networks(*logs.read(runs))
    own = networks.distilled.state_dict()
    assert own.keys() == saved['state_dict'].keys()
    assert all(torch.equal(own[name], value) for name, value in saved['state_dict'].items())
    assert networks.said == 'alone/epoch_2.pth, distilled/epoch_2.pth'
    assert list(networks.predictors) == ['alone', 'distilled', 'teacher']
    assert not networks.distilled.training


def test_projections_of_the_method_are_loaded(shapes, tmp_path):
    runs = logs.with_networks(tmp_path, shapes, method='dpk')
    saved = torch.load(runs / 'distilled/epoch_2.pth')['state_dict']
    key = 'distillation.dpk.stages.0.predict.weight'
    networks = load_networks(*logs.read(runs))
    assert torch.equal(networks.distilled.state_dict()[key], saved[key])


def test_without_the_teachers_file_the_student_is_there(runs):
    (runs / 'teacher.pth').unlink()
    networks = load_networks(*logs.read(runs))
    assert networks.teacher is None
    assert 'teacher.pth' in networks.missing
    assert list(networks.predictors) == ['alone', 'distilled']


def test_a_teacher_of_other_classes_does_not_predict(runs):
    networks = load_networks(*logs.read(runs))
    networks.teacher.model.bbox_head.num_classes += 1
    assert list(networks.predictors) == ['alone', 'distilled']


def test_what_is_missing_is_named(runs):
    alone, distilled = logs.read(runs)
    (runs / 'distilled/last_checkpoint').unlink()
    with pytest.raises(InputError, match='distilled: no checkpoint is there'):
        load_networks(alone, distilled)
    distilled.state = 'running'
    with pytest.raises(
        InputError, match=r'distilled still trains \(epoch 2 of 2\); write the page'
    ):
        load_networks(alone, distilled)


def test_a_pair_has_one_seed(tmp_path):
    some = [
        logs.trained(tmp_path / f'{name}{seed}', 0.4, distilled=name == 'dpk', seed=seed)
        for name in ('dpk', 'alone') for seed in (3, 4)
    ]  # fmt: skip
    trainings = logs.named(*some)
    alone, distilled = chosen_trainings(trainings[::-1], numbers_of(trainings, {}))
    assert (alone.arm, distilled.arm) == ('alone', 'dpk')
    assert alone.seed == distilled.seed


def test_one_that_stopped_before_its_validation_is_looked_at(tmp_path):
    logs.work_dir(tmp_path / 'dpk', [logs.entry(5)], model=logs.DPK, age=2 * QUIET)
    (training,) = logs.named(tmp_path / 'dpk')
    assert chosen_trainings([training], numbers_of([training], {})) == (None, training)
    plain = logs.named(logs.trained(tmp_path / 'alone', 0.4, distilled=False))
    with pytest.raises(InputError, match='no training here distils'):
        chosen_trainings(plain, numbers_of(plain, {}))


def test_images_are_spread_over_the_validation_set(shapes, tmp_path):
    cfg = h.runner_config('retinanet', tmp_path, shapes)
    assert validation_data(cfg, 2).places == [0, 3]
    assert validation_data(cfg, 99).places == [0, 1, 2, 3]
    data = validation_data(cfg, 3)
    assert data.batch == 2
    assert [len(batch['inputs']) for batch in data.batches(data.places, 2)] == [2, 1]
    assert data.file(0).startswith(str(shapes))


def test_every_prediction_goes_with_its_image():
    class Numbers:
        def test_step(self, batch):
            return batch['inputs']

    data = Data([dict(inputs=place) for place in range(9)], [1, 3, 4, 7, 8], batch=2)
    assert [*predictions(Numbers(), data, 'x')] == [(place, place) for place in data.places]
