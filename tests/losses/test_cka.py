"""HSIC and CKA against the closed formula, written out in loops."""

import itertools

import pytest
import torch

from mmkd.losses.cka import cka, cka_of_terms, gram, hsic, hsic_terms


def samples(n=7, size=(3, 2, 2), seed=0):
    return torch.randn(n, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hsic_by_sums(k, l):  # noqa: E741
    """The U-statistic as sums over tuples of different indices (Song et al. 2012, theorem 5)."""
    n = len(k)

    def mean(order, value):
        tuples = list(itertools.permutations(range(n), order))
        return sum(value(*t) for t in tuples) / len(tuples)

    pairs = mean(2, lambda i, j: k[i, j] * l[i, j])
    fours = mean(4, lambda i, j, q, r: k[i, j] * l[q, r])
    threes = mean(3, lambda i, j, q: k[i, j] * l[i, q])
    return pairs + fours - 2 * threes


@pytest.mark.parametrize('n', [4, 5, 7])
def test_hsic_equals_the_sum_over_index_tuples(n):
    x, y = samples(n), samples(n, (5,), seed=1)
    k, l = (v.flatten(1) @ v.flatten(1).T for v in (x, y))  # noqa: E741
    assert hsic(k, l).item() == pytest.approx(hsic_by_sums(k, l).item(), abs=1e-10)


def test_hsic_is_the_same_for_centred_samples():
    x, y = samples() + 50, samples(seed=1) - 20
    raw = [v.flatten(1) @ v.flatten(1).T for v in (x, y)]
    assert hsic(gram(x), gram(y)).item() == pytest.approx(hsic(*raw).item(), rel=1e-6)


def test_cka_is_the_quotient_of_its_terms():
    x, y = samples(), samples(seed=1)
    k, l = gram(x), gram(y)  # noqa: E741
    expected = hsic_by_sums(k, l) / (hsic_by_sums(k, k) * hsic_by_sums(l, l)).sqrt()
    assert cka(x, y).item() == pytest.approx(expected.item(), abs=1e-10)


def test_cka_of_equal_representations_is_one():
    x = samples()
    turned, _ = torch.linalg.qr(samples(12, (12,), seed=2))
    assert cka(x, x).item() == pytest.approx(1.0, abs=1e-12)
    assert cka(x, 3 * x.flatten(1) @ turned).item() == pytest.approx(1.0, abs=1e-12)


def test_unrelated_representations_align_around_zero():
    values = [cka(samples(16, seed=s), samples(16, seed=s + 100)).item() for s in range(100)]
    assert abs(sum(values) / 100) < 0.03


def test_fp32_maps_of_a_detector_keep_their_digits():
    exact = samples(8, (256, 8, 8)).abs() + 10
    other = exact + 0.5 * samples(8, (256, 8, 8), seed=1)
    assert cka(exact.float(), other.float()).item() == pytest.approx(
        cka(exact, other).item(), abs=1e-5
    )


def test_minibatch_cka_averages_terms_before_the_quotient():
    batches = [(samples(5, seed=s), samples(5, seed=s) + samples(5, seed=s + 9)) for s in (0, 1)]
    terms = torch.stack([hsic_terms(x, y) for x, y in batches])
    xy, xx, yy = terms.mean(0)
    assert cka_of_terms(terms.mean(0)) == xy / (xx * yy).sqrt()


def test_a_constant_representation_has_no_alignment():
    assert not cka(torch.ones(6, 3), samples(6)).isfinite()
