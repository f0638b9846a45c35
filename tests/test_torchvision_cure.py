import os
import subprocess
import sys
from pathlib import Path

import helpers as h
import pytest
import torch
from mmengine.utils import get_installed_path

import mmkd
from mmkd import torchvision_cure
from mmkd.commands.export import export_student

TORCH = """
class library:
    declared = []
    class Library:
        def __init__(self, *args): pass
        def define(self, schema): library.declared.append(schema.split('(')[0])
"""
TORCHVISION = """
import torch
from . import part
part.loads += 1
if torch.library.declared != ['nms', 'qnms']:
    raise RuntimeError('{message}')
"""


def run(folder, code, message='operator torchvision::nms does not exist'):
    """Run code beside a stand-in of torch, and of a torchvision that needs two operators declared."""
    (folder / 'torch.py').write_text(TORCH)
    (folder / 'torchvision').mkdir()
    (folder / 'torchvision/__init__.py').write_text(TORCHVISION.format(message=message))
    (folder / 'torchvision/part.py').write_text('loads = 0')
    (folder / 'cure.py').write_text(Path(torchvision_cure.__file__).read_text())
    start = (
        f'import sys; sys.path.insert(0, {str(folder)!r}); before = set(sys.modules); import cure; '
    )
    command = [sys.executable, '-I', '-S', '-c', f'{start}cure.install(); cure.install(); {code}']
    return subprocess.run(command, capture_output=True, text=True)


def test_a_start_of_the_interpreter_imports_nothing(tmp_path):
    done = run(tmp_path, 'print(sorted(set(sys.modules) - before))')
    assert done.stdout.strip() == "['__future__', 'cure']", done.stderr


def test_operators_are_declared_where_torchvision_lacks_them(tmp_path):
    code = 'import torchvision, torch; print(torch.library.declared, torchvision.part.loads)'
    done = run(tmp_path, code)
    assert done.stdout.strip() == "['nms', 'qnms'] 2", done.stderr


def test_looking_for_torchvision_does_not_import_it(tmp_path):
    code = "from importlib.util import find_spec; find_spec('torchvision'); print('torch' in sys.modules)"
    assert run(tmp_path, code).stdout.strip() == 'False'


def test_another_error_is_passed_on(tmp_path):
    done = run(tmp_path, 'import torchvision', message='no disk')
    assert 'RuntimeError: no disk' in done.stderr


def test_an_absent_torchvision_stays_absent(tmp_path):
    code = f'sys.path.remove({str(tmp_path)!r}); import torchvision'
    assert "ModuleNotFoundError: No module named 'torchvision'" in run(tmp_path, code).stderr


@pytest.mark.slow
@pytest.mark.parametrize('tool', ['test', 'train'])
def test_plain_mmdet_runs_an_exported_student(tool, data, tmp_path):
    """The tools as mmdet's wheel has them, with nothing but what setup leaves in the environment."""
    plain = h.runner_config('retinanet', tmp_path / 'work', data)
    cfg = mmkd.distill(plain, 'pkd', teacher='t.py', checkpoint='t.pth')
    student = dict(plain.model, _scope_='mmdet')
    model = h.distiller(student, student, pkd=dict(type='mmkd.PKD'))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'c.pth')
    config, weights = export_student(cfg, tmp_path / 'c.pth', tmp_path / 'out')
    script = Path(get_installed_path('mmdet'), f'.mim/tools/{tool}.py')
    given = [str(weights)] if tool == 'test' else ['--cfg-options', 'train_cfg.max_epochs=1']
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    done = subprocess.run(
        [sys.executable, str(script), str(config), *given],
        capture_output=True, text=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'Average Precision' in done.stdout  # what its evaluator prints
