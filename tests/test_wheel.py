"""Wheel and source distribution in an environment of their own: the commands run, a student is distilled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import helpers as h
import pytest

from mmkd import __version__

ROOT = Path(__file__).parents[1]
LEFT = (
    '.git',
    '.venv',
    'data',
    'work_dirs',
    'build',
    'dist',
    '*.egg-info',
    '__pycache__',
    '.*_cache',
)
CONFIGS = [path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts]


def run(*words, cwd, **options):
    """A process that knows nothing of the checkout."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
    result = subprocess.run(
        [*map(str, words)], cwd=cwd, env=clean, capture_output=True, text=True, **options
    )
    said = result.stdout + result.stderr
    assert result.returncode == 0, said[-3000:]
    return said


def built(kind, source, out):
    """What setuptools builds of a source tree."""
    code = f'from setuptools.build_meta import build_{kind} as build; build({str(out)!r})'
    run(sys.executable, '-c', code, cwd=source)
    (made,) = [
        path for path in out.iterdir() if path.suffix == ('.whl' if kind == 'wheel' else '.gz')
    ]
    return made


@pytest.fixture(scope='module')
def distributions(tmp_path_factory):
    """The wheel of the checkout, and that of its source distribution."""
    folder = tmp_path_factory.mktemp('dist')
    names = ('checkout', 'first', 'sdist', 'unpacked', 'second')
    checkout, first, sdist, unpacked, second = (folder / name for name in names)
    shutil.copytree(ROOT, checkout, symlinks=True, ignore=shutil.ignore_patterns(*LEFT))
    for out in (first, sdist, second):
        out.mkdir()
    with tarfile.open(built('sdist', checkout, sdist)) as archive:
        archive.extractall(unpacked, filter='data')
    (source,) = unpacked.iterdir()
    return built('wheel', checkout, first), built('wheel', source, second)


@pytest.fixture(scope='module')
def environment(distributions, tmp_path_factory):
    """The second wheel in a new environment, which sees the packages of this one, but not the checkout."""
    folder = tmp_path_factory.mktemp('environment')
    venv.create(folder, symlinks=True)
    (site,) = folder.glob('lib/python*/site-packages')
    # a path in a .pth file, whose own .pth files (an editable installation) are not read
    (site / 'others.pth').write_text(sysconfig.get_paths()['purelib'] + '\n')
    pip = (sys.executable, '-m', 'pip', '--python', folder / 'bin/python')
    run(*pip, 'install', '--quiet', '--no-deps', '--no-index', '--force-reinstall', '--ignore-installed',
        distributions[1], cwd=folder)  # fmt: skip
    return folder


@pytest.fixture
def project(shapes, tmp_path):
    """Two plain configs and their data."""
    for name, width in (('student', 8), ('teacher', 16)):
        cfg = h.runner_config('retinanet', tmp_path / 'work', shapes)
        cfg.model.backbone.base_channels = width
        cfg.model.neck.in_channels = [width, 2 * width, 4 * width, 8 * width]
        cfg.train_cfg.max_epochs, cfg.log_level = 1, 'INFO'
        cfg.train_dataloader.dataset.indices = 4
        cfg.dump(tmp_path / f'{name}.py')
    return tmp_path


DISTILLED = (
    'student.py', '--distill', 'pkd', '--teacher', 'teacher.py', '--teacher-checkpoint', 'untrained',
)  # fmt: skip


@pytest.mark.slow
def test_the_source_distribution_has_all_that_the_wheel_has(distributions):
    first, second = (set(zipfile.ZipFile(wheel).namelist()) for wheel in distributions)
    assert first == second
    shipped = {f'mmkd/.mim/{path.relative_to(ROOT)}' for path in (ROOT / 'configs').rglob('*.py')}
    assert shipped <= first
    parts = {
        'mmkd/.mim/model-index.yml',
        'mmkd/.mim/tools/train.py',
        'mmkd/py.typed',
        'mmkd_cli/train.py',
    }
    assert parts <= first
    assert not any(name.startswith('tests') for name in first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('words', 'said'),
    [(['--version'], f'mmkd {__version__}'), (['--help'], 'exit status:'), (['methods'], 'pkd'),
     (['doctor'], 'torch')],
)  # fmt: skip
def test_the_command_is_there(words, said, environment, tmp_path):
    assert said in run(environment / 'bin/mmkd', *words, cwd=tmp_path)


@pytest.mark.slow
def test_the_installed_package_distils(environment, project):
    said = run(environment / 'bin/mmkd', 'train', *DISTILLED, cwd=project)
    assert 'Epoch(train) [1][2/2]' in said
    assert 'pkd/share' in said
    assert (project / 'work/epoch_1.pth').exists()
    where = 'import mmkd; print(mmkd.__file__)'
    assert str(environment) in run(environment / 'bin/python', '-c', where, cwd=project)


@pytest.mark.slow
def test_mim_finds_tool_and_configs(environment, project):
    """As ``mim train mmkd CONFIG`` goes about it: the folder .mim, the tool's help, and then the tool."""
    (package,) = environment.glob('lib/python*/site-packages/mmkd')
    tool, python = package / '.mim/tools/train.py', environment / 'bin/python'
    assert '--gpus' not in run(python, tool, '-h', cwd=project)
    (config,) = package.rglob('rtmdet_pico_shapes.py')
    show = f'from mmengine.config import Config; print(Config.fromfile({str(config)!r}).model.type)'
    assert 'RTMDet' in run(python, '-c', show, cwd=project)
    said = run(python, tool, DISTILLED[0], '--launcher', 'none', *DISTILLED[1:], cwd=project)
    assert 'Epoch(train) [1][2/2]' in said


def test_a_name_is_enough_for_mim():
    """It looks for the file's name in the whole package; ``demo/teacher.py`` has to be called by its path."""
    files = [path for path in (ROOT / 'mmkd').rglob('*.py') if '.mim' not in path.parts]
    names = [path.name for path in [*files, *(ROOT / 'configs').rglob('*.py')]]
    assert len(CONFIGS) > 40
    assert {path.name for path in CONFIGS if names.count(path.name) > 1} == {'teacher.py'}
