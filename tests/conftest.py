"""Fixtures of all tests."""

from __future__ import annotations

import functools
import gc
import itertools
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

import mmkd  # noqa: F401
from mmkd.datasets import ShapesSpec, make_shapes

RUNS = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    """Before workers start: in a new environment yapf writes a cache, which another process would read half."""
    import yapf.yapflib.yapf_api  # noqa: F401


@pytest.fixture(autouse=True, scope='session')
def _quick() -> Iterator[None]:
    """Half of what a small Runner takes, saved: configs are not laid out, imports not searched for garbage."""
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **options: (text, True))
        patch.setattr(Runner, '__init__', functools.partialmethod(_named, Runner.__init__))
        yield


def _named(self: Runner, init: Any, *args: Any, **options: Any) -> None:
    """Give a Runner a name of its own: those that begin in one second would share what they remember."""
    options['experiment_name'] = options.get('experiment_name') or f'run{next(RUNS)}'
    init(self, *args, **options)


@pytest.fixture(autouse=True)
def _quiet_and_seeded() -> Iterator[None]:
    """Same randomness and no log for every test; default scope and environment are put back."""
    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', '2')))
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    scopes, environment = dict(DefaultScope._instance_dict), dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(scopes)


@pytest.fixture(scope='session')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small drawn data set."""
    spec = ShapesSpec(train=8, val=4, smallest=64, largest=80, objects=4, crop=32)
    return make_shapes(tmp_path_factory.mktemp('data') / 'shapes', spec, quiet=True)


@pytest.fixture
def data(shapes: Path, tmp_path: Path) -> Path:
    """A copy of the data set that may be damaged."""
    return Path(shutil.copytree(shapes, tmp_path / 'data'))
