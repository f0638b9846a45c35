"""Each loss against a formula written independently in NumPy, and its gradient against differences."""

import numpy as np
import pytest
import torch
from scipy.special import expit, rel_entr, softmax
from scipy.stats import pearsonr
from torch.autograd import gradcheck

from mmkd.losses import (
    attention_distance,
    binary_kl,
    channel_kl,
    match_queries,
    pearson_distance,
    softmax_kl,
)

RNG = np.random.default_rng(0)
S, T = RNG.normal(size=(2, 3, 5, 4, 6))
"""Two feature maps [3, 5, 4, 6]."""
ROWS = RNG.normal(0, 3, size=(2, 7, 5))


def tensors(*arrays):
    return [torch.tensor(array, requires_grad=True) for array in arrays]


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_softmax_kl(temperature):
    s, t = (softmax(rows / temperature, axis=1) for rows in ROWS)
    expected = temperature**2 * rel_entr(t, s).sum(1)
    got = softmax_kl(*tensors(*ROWS), temperature).detach().numpy()
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize('temperature', [1.0, 2.0])
def test_binary_kl(temperature):
    s, t = (expit(rows / temperature) for rows in ROWS)
    expected = temperature**2 * (rel_entr(t, s) + rel_entr(1 - t, 1 - s))
    got = binary_kl(*tensors(*ROWS), temperature).detach().numpy()
    np.testing.assert_allclose(got, expected, atol=1e-10)


def test_kl_is_finite_for_extreme_logits():
    high, low = torch.tensor([[200.0, -200.0]]), torch.tensor([[-200.0, 200.0]])
    assert softmax_kl(high, low).item() == pytest.approx(400.0)
    assert binary_kl(high, low)[0].tolist() == pytest.approx([200.0, 200.0])


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_channel_kl(temperature):
    total = 0.0
    for image in range(3):
        for channel in range(5):
            s = softmax(S[image, channel].ravel() / temperature)
            t = softmax(T[image, channel].ravel() / temperature)
            total += rel_entr(t, s).sum()
    expected = temperature**2 * total / (3 * 5)
    assert channel_kl(*tensors(S, T), temperature).item() == pytest.approx(expected, abs=1e-12)


def test_attention_distance():
    maps = []
    for feature in (S, T):
        energy = (feature**2).mean(1).reshape(3, -1)
        maps.append(energy / np.linalg.norm(energy, axis=1, keepdims=True))
    expected = ((maps[0] - maps[1]) ** 2).mean()
    assert attention_distance(*tensors(S, T)).item() == pytest.approx(expected, abs=1e-12)


def test_pearson_distance():
    values = [1 - pearsonr(S[:, c].ravel(), T[:, c].ravel())[0] for c in range(5)]
    assert pearson_distance(*tensors(S, T)).item() == pytest.approx(np.mean(values), abs=1e-9)


def test_pearson_distance_forgets_scale_and_offset_and_survives_constant_maps():
    s = torch.tensor(S)
    assert pearson_distance(s, 3 * s - 7).item() == pytest.approx(0, abs=1e-12)
    assert pearson_distance(torch.zeros(2, 3, 4, 4), torch.randn(2, 3, 4, 4)).isfinite()


@pytest.mark.parametrize(
    'loss',
    [
        lambda s: softmax_kl(s.flatten(1), torch.tensor(T).flatten(1), 2.0),
        lambda s: binary_kl(s, torch.tensor(T), 2.0),
        lambda s: channel_kl(s, torch.tensor(T), 2.0),
        lambda s: attention_distance(s, torch.tensor(T)),
        lambda s: pearson_distance(s, torch.tensor(T)),
    ],
    ids=['softmax_kl', 'binary_kl', 'channel_kl', 'attention', 'pearson'],
)
def test_gradients_by_finite_differences(loss):
    assert gradcheck(loss, (torch.tensor(S, requires_grad=True),), eps=1e-6, atol=1e-7)


def test_matching_is_the_cheapest_one_to_one_assignment():
    from itertools import permutations

    rng = torch.Generator().manual_seed(0)
    p, q = torch.rand(4, 3, generator=rng), torch.rand(4, 3, generator=rng)
    a, b = torch.rand(4, 4, generator=rng), torch.rand(4, 4, generator=rng)
    cost = np.abs(p[:, None] - q[None]).sum(-1) + 5 * np.abs(a[:, None] - b[None]).sum(-1)
    best = min(
        permutations(range(4)), key=lambda order: sum(cost[i, j] for i, j in enumerate(order))
    )
    rows, columns = match_queries((p, a), (q, b))
    assert rows.tolist() == [0, 1, 2, 3]
    assert tuple(columns.tolist()) == best


def test_matching_takes_unequal_numbers_of_queries():
    rows, columns = match_queries(
        (torch.rand(3, 2), torch.rand(3, 4)), (torch.rand(5, 2), torch.rand(5, 4))
    )
    assert len(rows) == len(set(columns.tolist())) == 3
