"""Maps are those that the method compares, and stages of the same network are alike."""

from __future__ import annotations

import numpy as np
import pytest
import report_logs as logs
import torch

from mmkd import InputError
from mmkd.commands.report.features import (
    AsTapped,
    alignments,
    batched,
    comparing,
    level,
    maps_of,
    terms_of,
)
from mmkd.commands.report.networks import config_file, load_networks, validation_data
from mmkd.family.building import load_config
from mmkd.losses.cka import cka, cka_of_terms, gram


def looked_at(folder):
    alone, distilled = logs.read(folder)
    data = validation_data(load_config(config_file(distilled)), 4)
    return load_networks(alone, distilled), data


@pytest.mark.parametrize(
    ('family', 'method', 'names'),
    [
        ('retinanet', 'pkd', ['neck 0', 'neck 1']),
        ('classifier', 'kd', ['layer1', 'layer2', 'layer3']),
    ],
)
def test_a_student_that_is_its_teacher_has_its_maps(shapes, tmp_path, family, method, names):
    networks, data = looked_at(logs.with_networks(tmp_path, shapes, family, method))
    kind = type(comparing(networks)[0])
    assert (kind is AsTapped) == (method == 'kd')
    found = maps_of(networks, data, data.places[:2])
    assert len(found) == 2
    for pixels, levels in found:
        assert pixels.shape[2] == 3
        assert [one.name for one in levels][: len(names)] == names
        for one in levels:
            assert (one.student == one.teacher).all()
            assert (one.gap == one.gap[0, 0]).all()  # of no difference
            assert one.correlation == pytest.approx(1, abs=0.35)  # constant channels count as 0
    (first, second), count = alignments(networks, data)
    assert (first.of, second.of, count) == ('alone', 'distilled', 4)
    assert first.rows == first.columns == second.rows
    assert np.diag(second.values) == pytest.approx(1)
    assert np.allclose(first.values, second.values)


def test_dpk_shows_what_it_makes_of_the_student_alone(shapes, tmp_path):
    networks, data = looked_at(logs.with_networks(tmp_path, shapes, method='dpk'))
    method = networks.distillation.methods['dpk']
    for parameter in method.stages[0].parameters():
        torch.nn.init.zeros_(parameter)
    (_, levels), *_ = maps_of(networks, data, data.places[:1])
    rebuilt, plain = levels[method.inject[0]], levels[0]
    assert 0 not in method.inject
    assert rebuilt.correlation == 0  # a transform of zeros gives a constant map
    assert plain.correlation > 0.5


def test_without_a_teacher_it_is_said(shapes, tmp_path):
    runs = logs.with_networks(tmp_path, shapes)
    (runs / 'teacher.pth').unlink()
    networks, data = looked_at(runs)
    for look in (lambda: maps_of(networks, data, [0]), lambda: alignments(networks, data)):
        with pytest.raises(InputError, match=r'teacher\.pth'):
            look()


def test_a_difference_is_seen_where_it_is():
    torch.manual_seed(0)
    teacher = torch.rand(1, 5, 8, 8)
    student = teacher.clone()
    student[..., :4] = torch.rand(1, 5, 8, 4)
    drawn = level('x', student, teacher)
    green = drawn.gap[..., 1]  # more of it the larger a value is
    assert green[:, :4].mean() > 2 * green[:, 4:].mean()
    assert 0 < drawn.correlation < 0.9
    other = level('x', torch.rand(1, 3, 4, 4), teacher)
    assert other.correlation is None
    assert other.gap.shape == other.teacher.shape == (8, 8, 3)


def test_the_matrix_is_the_cka_of_each_pair():
    torch.manual_seed(0)
    ours, theirs = ([torch.rand(6, n) for n in sizes] for sizes in ((3, 9), (4, 5, 6)))
    terms = terms_of([gram(x) for x in ours], [gram(x) for x in theirs])
    expected = [[float(cka(x, y)) for y in theirs] for x in ours]
    assert np.allclose(cka_of_terms(terms).numpy(), expected)


def test_too_few_images_are_named():
    with pytest.raises(InputError, match='3 images; the unbiased CKA needs 4'):
        batched([1, 2, 3])
