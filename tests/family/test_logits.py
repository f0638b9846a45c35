"""How class logits of every kind compare, against loops over what is compared."""

import helpers as h
import numpy as np
import pytest
import torch
from scipy.special import expit, rel_entr, softmax
from torch.autograd import gradcheck

from mmkd.family.logits import LogitDivergence

CLASSES = 3
SIZES = ((4, 5), (2, 3))


def maps(seed, channels):
    """Logits of two levels and two images."""
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(2, channels, *size, generator=generator) for size in SIZES]


def queries(seed, count=6, layers=2):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, 2, count, CLASSES, generator=generator)
    return [logits, torch.rand(layers, 2, count, 4, generator=generator)]


def divergence(student, teacher, sigmoid, temperature):
    """Of one row of logits, by its definition."""
    chances = expit if sigmoid else softmax
    s, t = (chances(row.double().numpy() / temperature) for row in (student, teacher))
    value = rel_entr(t, s).sum() + (rel_entr(1 - t, 1 - s).sum() if sigmoid else 0)
    return temperature**2 * value


def expected_objects(row, sigmoid):
    row = row.double().numpy()
    return expit(row).max() if sigmoid else softmax(row)[:-1].max()


@pytest.mark.parametrize('temperature', [1.0, 3.0])
@pytest.mark.parametrize(('sigmoid', 'width'), [(True, CLASSES), (False, CLASSES + 1)])
def test_anchors_are_summed_and_divided_by_the_objects_that_the_teacher_expects(
    sigmoid, width, temperature
):
    student, teacher = maps(0, 2 * width), maps(1, 2 * width)
    total, objects = 0.0, 0.0
    for ours, theirs in zip(student, teacher):
        for image, anchor in np.ndindex(2, 2):
            own = slice(anchor * width, (anchor + 1) * width)
            for cell in np.ndindex(ours.shape[2:]):
                rows = (level[image, own][:, cell[0], cell[1]] for level in (ours, theirs))
                s, t = rows
                total += divergence(s, t, sigmoid, temperature)
                objects += expected_objects(t, sigmoid)
    compare = LogitDivergence('dense', sigmoid, temperature, classes=width)
    assert compare(student, teacher).item() == pytest.approx(total / objects, rel=1e-5)


@pytest.mark.parametrize('sigmoid', [False, True])
def test_pixels_are_averaged(sigmoid):
    (student, _), (teacher, _) = maps(0, CLASSES), maps(1, CLASSES)
    rows = [(student[i, :, y, x], teacher[i, :, y, x]) for i, y, x in np.ndindex(2, *SIZES[0])]
    expected = np.mean([divergence(s, t, sigmoid, 2.0) for s, t in rows])
    compare = LogitDivergence('pixel', sigmoid, 2.0)
    assert compare([student], [teacher]).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('kind', ['vector', 'roi'])
def test_rows_are_averaged_over_all_that_pass(kind):
    """The stages of a cascade have as many boxes as they like."""
    sizes = (5, 3) if kind == 'roi' else (4,)
    student, teacher = ([torch.randn(n, CLASSES) for n in sizes] for _ in range(2))
    rows = zip(torch.cat(student), torch.cat(teacher))
    expected = np.mean([divergence(s, t, False, 4.0) for s, t in rows])
    got = LogitDivergence(kind, False, 4.0)(student, teacher)
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_queries_of_the_last_layer_are_paired_and_those_for_denoising_left_out():
    teacher = queries(0)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    shifted = teacher[0][:, :, order] + torch.tensor([0.3, 0.0, -0.2])
    denoising = queries(3, count=4)
    student = [
        torch.cat([noise, own], 2)
        for noise, own in zip(denoising, [shifted, teacher[1][:, :, order]])
    ]
    rows = zip(shifted[-1].flatten(0, 1), teacher[0][-1][:, order].flatten(0, 1))
    total = sum(divergence(s, t, True, 1.0) for s, t in rows)
    objects = sum(expected_objects(t, True) for t in teacher[0][-1].flatten(0, 1))
    compare = LogitDivergence('query', True, 1.0, queries=(6, 6))
    assert compare(student, teacher).item() == pytest.approx(total / max(1, objects), rel=1e-5)


def test_few_expected_objects_do_not_make_it_large():
    """The divisor is one at least."""
    student, teacher = torch.zeros(1, CLASSES, 1, 2), torch.full((1, CLASSES, 1, 2), -5.0)
    expected = 2 * divergence(student[0, :, 0, 0], teacher[0, :, 0, 0], True, 1.0)
    got = LogitDivergence('dense', True, 1.0, classes=CLASSES)([student], [teacher])
    assert got.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('kind', ['vector', 'dense', 'query'])
def test_gradients_by_finite_differences(kind, monkeypatch):
    monkeypatch.setattr(torch.Tensor, 'float', torch.Tensor.double)  # differences need the digits
    sigmoid = kind != 'vector'
    compare = LogitDivergence(kind, sigmoid, 2.0, classes=CLASSES, queries=(6, 6))
    if kind == 'query':
        student, teacher = ([part.double() for part in queries(seed)] for seed in (0, 1))
        boxes = student.pop()
        assert gradcheck(lambda s: compare([s, boxes], teacher), student[0].requires_grad_())
        return
    size = (4, CLASSES) if kind == 'vector' else (1, 2 * CLASSES, 2, 2)
    student, teacher = torch.randn(2, *size, dtype=torch.float64)
    assert gradcheck(lambda s: compare([s], [teacher]), student.requires_grad_())


@pytest.mark.parametrize(
    ('family', 'expected'),
    [
        ('classifier', LogitDivergence('vector', False, 4.0)),
        ('segmentor', LogitDivergence('pixel', False, 1.0)),
        ('retinanet', LogitDivergence('dense', True, 1.0, classes=h.CLASSES)),
        ('softmax', LogitDivergence('dense', False, 1.0, classes=h.CLASSES + 1)),
        ('dino', LogitDivergence('query', True, 1.0, h.CLASSES, queries=(30, 30))),
    ],
)
def test_the_students_head_decides(family, expected):
    model = h.build(h.FAMILIES[family]())
    found = LogitDivergence.of(model, model, None)
    assert (found.kind, found.sigmoid, found.temperature) == (
        expected.kind,
        expected.sigmoid,
        expected.temperature,
    )
    assert found.queries == expected.queries
    if found.kind == 'dense':
        assert found.classes == expected.classes
    assert LogitDivergence.of(model, model, 7.0).temperature == 7.0


def test_chances_are_turned_into_logits():
    """TOOD's head gives chances."""
    logits = maps(0, CLASSES), maps(1, CLASSES)
    chances = [[level.sigmoid() for level in side] for side in logits]
    plain = LogitDivergence('dense', True, 1.0, CLASSES)
    activated = LogitDivergence('dense', True, 1.0, CLASSES, activated=True)
    torch.testing.assert_close(activated(*chances), plain(*logits), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(activated.confidence(chances[1]), plain.confidence(logits[1]))
    certain = [torch.ones_like(level) for level in chances[0]]
    assert activated(certain, chances[1]).isfinite()
