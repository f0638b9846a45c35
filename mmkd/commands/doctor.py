"""What of the stack is installed, what was tested, what is broken, and the cure."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

TESTED = {
    'torch': '2.13.0',
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmdetection': '3.5.1',
    'onedl-mmpretrain': '1.3.6',
    'onedl-mmsegmentation': '1.4.2',
    'pycocotools': '2.0.11',
    'numpy': '2.2.6',
    'opencv-python': '4.12.0.88',
}
"""The versions that the tests ran with; the same as in requirements.txt."""

RETIRED = {
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmdet': 'onedl-mmdetection',
    'mmpretrain': 'onedl-mmpretrain',
    'mmsegmentation': 'onedl-mmsegmentation',
}
"""Distributions that stopped in 2024, and those that go on under the same import names."""

BUILD_MMCV = (
    "after torch: pip install ninja psutil 'setuptools<81' wheel && "
    "CFLAGS='-g0 -O2' pip install --no-build-isolation --force-reinstall --no-deps onedl-mmcv==2.3.6"
)


@dataclass
class Finding:
    """One line of the report: ``state`` is ``ok``, ``untested`` or ``broken``."""

    what: str
    found: str
    tested: str
    state: str
    cure: str = ''


def examine() -> list[Finding]:
    """Look at the whole stack."""
    return [_python(), *(_package(name) for name in TESTED), *_retired(), *_functions()]


def healthy(findings: list[Finding]) -> bool:
    """Whether nothing is broken."""
    return all(finding.state != 'broken' for finding in findings)


def _python() -> Finding:
    found = '.'.join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 9):
        return Finding('Python', found, '3.11', 'broken', 'use Python 3.9 or newer')
    return Finding('Python', found, '3.11', 'ok' if sys.version_info[:2] == (3, 11) else 'untested')


def _package(name: str) -> Finding:
    tested = TESTED[name]
    try:
        found = version(name)
    except PackageNotFoundError:
        cure = BUILD_MMCV if name == 'onedl-mmcv' else f'pip install {name}=={tested}'
        return Finding(name, 'absent', tested, 'broken', cure)
    same = found.split('+')[0] == tested
    return Finding(name, found, tested, 'ok' if same else 'untested')


def _retired() -> Iterator[Finding]:
    for old, new in RETIRED.items():
        try:
            found = version(old)
        except PackageNotFoundError:
            continue
        cure = f'pip uninstall {old}, then reinstall {new}: both own the same import name'
        yield Finding(old, found, 'absent', 'broken', cure)


def _functions() -> Iterator[Finding]:
    """Try what a version number does not tell."""
    yield _attempt('mmcv operators', lambda: import_module('mmcv.ops'), BUILD_MMCV)
    for toolbox in ('mmdet', 'mmpretrain', 'mmseg'):
        models = functools.partial(import_module, f'{toolbox}.models')
        cure = "reinstall it; beside transformers 5: pip install 'transformers<5'"
        yield _attempt(toolbox, models, cure)
    yield _attempt('torchvision', _torchvision, 'pip install --no-deps torchvision==0.28.0')
    yield _attempt(
        'COCO evaluation', lambda: import_module('pycocotools._mask'), 'pip install pycocotools'
    )
    yield _attempt('mmkd configs', _configs, 'reinstall mmkd: pip install -e . in its checkout')
    yield _attempt('accelerator', _accelerator, '')


def _attempt(what: str, check: Callable[[], object], cure: str) -> Finding:
    try:
        result = check()
    except Exception as error:  # whatever goes wrong is the finding
        reason = (str(error).splitlines() or [''])[0][:120]
        return Finding(what, f'{type(error).__name__}: {reason}', 'works', 'broken', cure)
    return Finding(what, result if isinstance(result, str) else 'works', 'works', 'ok')


def _torchvision() -> str:
    import torchvision

    try:
        import_module('torchvision._C')
    except ImportError:
        return f'{torchvision.__version__}, its compiled operators replaced by schemas'
    return torchvision.__version__


def _configs() -> str:
    from ..family.building import load_config

    load_config('mmkd::shapes/rtmdet_tiny_shapes.py')
    return 'resolve'


def _accelerator() -> str:
    import torch

    if not torch.cuda.is_available():
        return f'none; {torch.get_num_threads()} CPU threads'
    return f'{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}'
