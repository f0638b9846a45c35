"""Generators that are put back, and samples that depend on their number alone."""

import functools
import pickle
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mmkd.training.randomness import (
    Numbered,
    override,
    random_state,
    seed_all,
    set_random_state,
    start_worker,
)


def draws():
    """Of each generator one, a pair for those that remember half of it."""
    gauss = (random.gauss(0, 1), np.random.randn())
    return random.random(), np.random.rand(), torch.rand(()).item(), *gauss


def test_all_generators_go_on_from_a_state_that_a_checkpoint_held(tmp_path):
    random.gauss(0, 1), np.random.randn()  # each has a second number in store
    torch.save(random_state(), tmp_path / 'state.pth')
    expected = [draws() for _ in range(3)]
    set_random_state(torch.load(tmp_path / 'state.pth', weights_only=True))
    assert [draws() for _ in range(3)] == expected


def test_every_number_of_a_seed_counts_and_so_does_its_place():
    found = {}
    for numbers in [(0, 0, 1), (0, 1, 0), (1, 0, 0), (7, 100, 3), (7, 3, 100), (3, 100, 7)]:
        seed_all(*numbers)
        found[numbers] = draws()
        seed_all(*numbers)
        assert draws() == found[numbers]
    for generator in zip(*found.values()):
        assert len(set(generator)) == len(found)


def test_a_numbered_index_is_an_index_that_reaches_another_process():
    index = Numbered.of(3, 100)
    assert ['a', 'b', 'c', 'd'][index] == 'd'
    assert {3: 'x'}[index] == 'x'
    again = pickle.loads(pickle.dumps(index))
    assert (again, again.iteration) == (3, 100)


class Drawn(Dataset):
    """Samples that are drawn with all generators."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.tensor(draws(), dtype=torch.float64)


def loaded(workers, indices, seed=5, init=None):
    """What a loader gives for some indices, two to a batch, by index."""
    loader = DataLoader(
        Drawn(), batch_sampler=[indices[i : i + 2] for i in range(0, len(indices), 2)],
        num_workers=workers, worker_init_fn=functools.partial(start_worker, init=init, seed=seed),
    )  # fmt: skip
    samples = torch.cat([*loader]).tolist()
    keys = [(int(i), getattr(i, 'iteration', None)) for i in indices]
    return dict(zip(keys, map(tuple, samples)))


def test_a_sample_depends_on_seed_iteration_and_index_alone():
    indices = [Numbered.of(index, iteration) for iteration in (0, 1) for index in (0, 1, 2, 3)]
    one = loaded(1, indices)
    assert len(set(one.values())) == len(indices)
    assert loaded(2, indices[::-1]) == one
    late = loaded(1, indices[5:])
    assert late == {key: one[key] for key in late}
    assert set(loaded(1, indices, seed=6).values()).isdisjoint(one.values())


def test_a_sample_without_an_iteration_is_drawn_as_ever():
    """From the worker's own generators, which another init may have seeded."""

    def init(worker):
        torch.manual_seed(3), np.random.seed(3), random.seed(3)

    found = loaded(1, [0, 1], init=init)
    init(0)
    assert found == {(index, None): pytest.approx(draws(), abs=0) for index in (0, 1)}


def test_one_object_has_a_method_of_its_own():
    dataset, other = Drawn(), Drawn()
    override(dataset, '__getitem__', lambda inherited, index: (index, inherited(index).shape))
    override(dataset, '__len__', lambda inherited: inherited() + 1)
    assert (dataset[2], len(dataset)) == ((2, (5,)), 9)
    assert isinstance(dataset, Drawn)
    assert (other[2].shape, len(other)) == ((5,), 8)
