"""Predictions are counted as the evaluators of the toolboxes count them."""

from __future__ import annotations

from types import SimpleNamespace as Some

import helpers as h
import numpy as np
import pytest
import report_logs as logs
import torch

from mmkd import InputError
from mmkd.commands.picture import Box
from mmkd.commands.report.networks import Data, load_networks, predictions, validation_data
from mmkd.commands.report.tallies import (
    average_precisions,
    confused,
    objects_of,
    tally,
    tally_labels,
)
from mmkd.commands.test import evaluate, evaluation_config


def ring(left, score=None, name='ring', crowd=False):
    return Box(name, (left, 0.0, 10.0, 10.0), score, None, crowd)


def test_a_box_takes_the_object_that_it_overlaps_most():
    objects = [ring(0), ring(4, name='star')]
    counts = confused([ring(4, 0.9), ring(0, 0.8), ring(70, 0.7)], objects, ['ring', 'star'])
    assert counts.tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert confused([], objects, ['ring', 'star']).tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_scores_of_images_without_a_box_are_zero():
    assert average_precisions({0: [ring(0)], 1: []}, {0: [], 1: []}, ['ring', 'star']) == {
        'ring': 0.0, 'small objects': 0.0,
    }  # fmt: skip


def test_a_crowd_need_not_be_found():
    truth = {0: [ring(0), ring(50, crowd=True)]}
    found = average_precisions(truth, {0: [ring(0, 0.9), ring(50, 0.8)]}, ['ring'])
    assert found['ring'] == 1.0


def test_pixels_and_labels():
    truth, said = np.array([0, 0, 1, 1, 7]), np.array([0, 1, 1, 1, 0])
    pixels = tally_labels(['sky', 'sea', 'ship'], [(truth, said)], pixels=True)
    assert pixels.confusion.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert pixels.scores == pytest.approx({'sky': 1 / 2, 'sea': 2 / 3})
    data = Data(Some(metainfo=dict(classes=('cat', 'dog'))), [0])
    sample = Some(gt_label=torch.tensor([1]), pred_label=torch.tensor([0]))
    assert tally('classification', data, [(0, sample)], 0.3).confusion.tolist() == [[0, 0], [1, 0]]
    sample.gt_label = torch.tensor([0, 1])
    with pytest.raises(InputError, match='an image has several labels'):
        tally('classification', data, [(0, sample)], 0.3)
    mask = Some(data=torch.tensor([[0, 1], [255, 1]]))
    sample = Some(gt_sem_seg=mask, pred_sem_seg=Some(data=torch.ones(2, 2)))
    counted = tally('segmentation', data, [(0, sample)], 0.3)
    assert counted.confusion.tolist() == [[0, 1], [0, 2]]
    with pytest.raises(InputError, match='cannot be counted'):
        tally('other', data, [], 0.3)


def test_scores_are_those_of_the_toolbox(shapes, tmp_path):
    """The AP of classes and sizes that mmdet gives for the same checkpoint."""
    runs = logs.with_networks(tmp_path, shapes)
    networks = load_networks(*logs.read(runs))
    cfg = h.runner_config('retinanet', tmp_path / 'work', shapes)
    cfg.test_evaluator.classwise = True
    data = validation_data(cfg, 99)
    # an untrained detector finds nothing: its boxes are moved onto objects, in both
    model, moved = networks.alone, logs.moved_to_objects(data)
    with moved(type(model)):
        mine = tally('detection', data, predictions(model, data, 'x'), 0.3)
        theirs = evaluate(evaluation_config(cfg, str(runs / 'alone/epoch_2.pth')))
    assert max(mine.scores.values()) > 0.2
    assert len({*mine.scores.values()}) > 3
    for name in data.classes:
        if name in mine.scores:
            assert mine.scores[name] == pytest.approx(theirs[f'coco/{name}_precision'], abs=6e-4)
    for size in ('small', 'medium', 'large'):
        expected = theirs[f'coco/bbox_mAP_{size[0]}']
        assert mine.scores.get(f'{size} objects', -1) == pytest.approx(expected, abs=6e-4)


def test_objects_have_the_areas_of_their_file(shapes, tmp_path):
    data = validation_data(h.runner_config('retinanet', tmp_path, shapes), 99)
    objects = [one for place in data.places for one in objects_of(data, place)]
    assert objects
    assert all(one.area and one.area < one.place[2] * one.place[3] for one in objects)
