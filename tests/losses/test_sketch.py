"""Sketches: unbiased inner products and alignments, the same for images of every size."""

import pytest
import torch

from mmkd.losses.cka import cka, cka_of_terms, gram, hsic_terms
from mmkd.losses.sketch import (
    fold,
    hsic_terms_of_sketches,
    numbers_for,
    random_signs,
    sketch,
)

CPU = torch.device('cpu')


def samples(n=8, size=(64, 20, 24), seed=0):
    """Maps of images that have something in common two by two."""
    rng = torch.Generator().manual_seed(seed)
    own, common = torch.randn(n, *size, generator=rng), torch.randn(n // 2, *size, generator=rng)
    return own + common.repeat_interleave(2, 0)


def halves(maps, numbers):
    return sketch(maps, numbers).chunk(2, 1)


@pytest.mark.parametrize(
    ('size', 'numbers', 'expected'),
    [
        ((256, 100, 168), 8192, (64, 8, 8)),
        ((16, 32, 32), 8192, (16, 16, 16)),
        ((64, 8, 8), 8192, (64, 8, 8)),
        ((512, 7, 7), 2048, (64, 4, 4)),
        ((3, 5, 5), 512, (3, 5, 5)),
    ],
    ids=str,
)
def test_the_shape_of_each_half(size, numbers, expected):
    first, second = halves(torch.zeros(2, *size), numbers)
    assert first.shape == second.shape == (2, *expected)
    assert first[0].numel() <= numbers // 2


def test_what_is_not_folded_keeps_its_inner_products():
    maps = samples(size=(6, 4, 4))
    for half in halves(maps, 8192):
        assert torch.equal(half.abs(), maps.abs())
        torch.testing.assert_close(gram(half), gram(maps), rtol=1e-5, atol=1e-4)


def test_folding_sums_what_is_equal_modulo_the_size():
    maps = torch.arange(14.0).view(2, 7)
    assert torch.equal(
        fold(maps, 1, 3), torch.tensor([[0 + 3 + 6, 1 + 4, 2 + 5], [7 + 10 + 13, 8 + 11, 9 + 12.0]])
    )


def test_signs_are_as_good_as_random():
    signs = random_signs(64, 48, 40, CPU).double()
    total = signs[0].numel()
    assert signs.abs().unique().tolist() == [1]
    assert signs.mean((1, 2, 3)).abs().max() < 4 / total**0.5
    assert (signs[0] * signs[1]).mean().abs() < 4 / total**0.5
    for dim in range(3):
        for by in (1, 2, 8, 16, 32):
            along = (signs * signs.roll(by, dim + 1)).mean((1, 2, 3))
            assert along.abs().max() < 4.5 / total**0.5, (dim, by)


def test_inner_products_have_the_error_that_random_signs_predict():
    maps = samples()
    exact = maps.flatten(1) @ maps.flatten(1).T
    norms = exact.diag().outer(exact.diag()).sqrt()
    for half in halves(maps, 8192):
        flat = half.flatten(1)
        off = ~torch.eye(len(maps), dtype=torch.bool)
        errors = ((flat @ flat.T - exact) / norms)[off]
        assert errors.pow(2).mean().sqrt() < 1.5 / 4096**0.5


def test_the_alignment_is_near_the_exact_one_and_not_below_it_on_average():
    differences, plain = [], []
    for seed in range(24):
        x = samples(16, seed=seed)
        y = x + samples(16, seed=seed + 100)
        short = [sketch(side, 4096) for side in (x, y)]
        exact = cka(x, y)
        differences.append(cka_of_terms(hsic_terms_of_sketches(*short)) - exact)
        plain.append(cka(*short) - exact)
    mean, deviation = torch.stack(differences).mean(), torch.stack(differences).std()
    assert deviation < 0.12
    assert abs(mean) < 3 * deviation / 24**0.5
    assert torch.stack(plain).mean() < -3 * deviation / 24**0.5  # what one sketch alone would do


def test_terms_of_small_maps_are_the_exact_ones():
    x, y = samples(size=(6, 4, 4)), samples(size=(6, 4, 4), seed=1)
    found = hsic_terms_of_sketches(sketch(x, 8192), sketch(y, 8192))
    torch.testing.assert_close(found, hsic_terms(x, y), rtol=1e-5, atol=1e-4)


def test_a_padded_map_has_the_sketch_of_the_map():
    maps = samples(size=(64, 19, 21))
    padded = torch.nn.functional.pad(maps, (0, 11, 0, 13))
    torch.testing.assert_close(sketch(maps, 8192), sketch(padded, 8192))


def test_half_precision_loses_no_digits_by_summing():
    maps = samples().half()
    assert torch.equal(sketch(maps, 8192), sketch(maps.float(), 8192))


def test_a_batch_of_more_images_has_shorter_sketches():
    counts = [numbers_for(n) for n in (4, 16, 32, 64, 256, 4096)]
    assert counts == [8192, 8192, 4096, 2048, 512, 512]
