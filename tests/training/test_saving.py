from types import SimpleNamespace

import pytest
from mmengine.hooks import CheckpointHook, Hook

from mmkd.training.saving import given_backend, saves_now


@pytest.mark.parametrize(
    ('hook', 'iteration', 'saves'),
    [
        (CheckpointHook(interval=2, by_epoch=False), 1, True),
        (CheckpointHook(interval=2, by_epoch=False), 2, False),
        (CheckpointHook(interval=100, by_epoch=False), 9, True),
        (CheckpointHook(interval=100, by_epoch=False, save_last=False), 9, False),
        (CheckpointHook(interval=1), 1, False),
        (Hook(), 1, False),
    ],
)
def test_which_hook_saves_after_an_iteration(hook, iteration, saves):
    runner = SimpleNamespace(iter=iteration, max_iters=10, train_loop=None)
    assert saves_now(hook, runner) is saves


def test_a_config_may_have_its_own_backend():
    assert not given_backend(CheckpointHook())
    assert given_backend(CheckpointHook(backend_args=dict(backend='local')))
