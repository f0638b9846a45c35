"""The tools as a user starts them, and every wrong input answered before the first iteration."""

import os
import re
import subprocess
import sys
from pathlib import Path

import helpers as h
import pytest
import torch
from hostile import Hostile
from mmengine.utils import get_installed_path

from mmkd import InputError
from mmkd.commands.train import training_config
from mmkd.config.conversion import plain_config
from mmkd.family.building import build_model
from mmkd.files.checkpoints import read_checkpoint

ROOT = Path(__file__).parents[2]
STUDENT = str(ROOT / 'configs/shapes/rtmdet_pico_shapes.py')
TEACHER = str(ROOT / 'configs/shapes/rtmdet_tiny_shapes.py')
PROJECT = '''
from mmengine.registry import DATASETS
from mmdet.datasets import CocoDataset
from mmdet.models.detectors import RetinaNet
from mmdet.registry import MODELS

@MODELS.register_module()
class OurDetector(RetinaNet):
    """A project's own detector."""

@DATASETS.register_module()
class OurData(CocoDataset):
    METAINFO = dict(classes=('circle', 'ring', 'square', 'triangle', 'star', 'cross'))
'''


def tool(name, *args, cwd=ROOT, check=True, **environment):
    """Run a tool as a user does."""
    result = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / name), *map(str, args)],
        cwd=cwd, capture_output=True, text=True,
        env={**os.environ, **environment, 'PYTHONPATH': str(cwd)},
    )  # fmt: skip
    assert not check or result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result


@pytest.fixture
def project(tmp_path, shapes):
    """Somebody's mmdet project: its own package, data set class and configs; mmkd is not mentioned."""
    (tmp_path / 'ourproject').mkdir()
    (tmp_path / 'ourproject/__init__.py').write_text(PROJECT)
    for name, width in (('student', 8), ('teacher', 16)):
        cfg = h.runner_config('retinanet', tmp_path / 'work', shapes)
        cfg.model = h.retinanet(width=width)
        cfg.model.pop('_scope_')
        cfg.model.type, cfg.model.bbox_head.num_classes = 'OurDetector', 6
        cfg.model.test_cfg.score_thr = 0.0
        cfg.custom_imports = dict(imports=['ourproject'], allow_failed_imports=False)
        for part in ('train', 'val', 'test'):
            cfg[f'{part}_dataloader'].dataset.type = 'OurData'
            cfg[f'{part}_dataloader'].dataset.pop('metainfo')
        cfg.train_cfg.max_epochs, cfg.log_level = 1, 'INFO'
        cfg.default_hooks.logger.interval = 1
        cfg.dump(tmp_path / f'{name}.py')
    sys.path.insert(0, str(tmp_path))
    import ourproject  # noqa: F401

    cfg = plain_config(training_config(tmp_path / 'teacher.py'))
    torch.save(build_model(dict(cfg.model, _scope_='mmdet')).state_dict(), tmp_path / 'teacher.pth')
    yield tmp_path
    sys.path.remove(str(tmp_path))
    from mmdet.registry import MODELS
    from mmengine.registry import DATASETS

    MODELS._module_dict.pop('OurDetector')
    DATASETS._module_dict.pop('OurData')
    sys.modules.pop('ourproject')


def test_an_existing_project_distils_by_the_flag_alone(project):
    out = tool(
        'train.py', 'student.py', '--distill', 'pkd+kd', '--teacher', 'teacher.py',
        '--teacher-checkpoint', 'teacher.pth', '--work-dir', 'distilled',
        '--distill-options', 'pkd.weight=2.0', 'teacher.channels_last=True', cwd=project,
    )  # fmt: skip
    log = out.stdout + out.stderr
    assert 'pkd/loss' in log
    assert 'kd/loss' in log
    checkpoint = project / 'distilled/epoch_1.pth'
    state = torch.load(checkpoint, weights_only=False)['state_dict']
    cfg = plain_config(training_config(project / 'student.py'))
    plain = build_model(dict(cfg.model, _scope_='mmdet'))
    assert plain.load_state_dict(state, strict=False).missing_keys == []
    trained = project / 'distilled/student.py'
    first = tool('test.py', 'student.py', checkpoint, '--work-dir', 'eval', cwd=project)
    second = tool('test.py', trained, checkpoint, '--work-dir', 'eval', cwd=project)
    metrics = [
        line.split('coco/')[1].split('data_time')[0]
        for result in (first, second)
        for line in (result.stdout + result.stderr).splitlines()
        if 'coco/bbox_mAP:' in line
    ]
    assert len(metrics) == 2
    assert metrics[0] == metrics[1]
    tools = Path(get_installed_path('mmdet'), '.mim/tools')
    again = tool(tools / 'train.py', trained, '--work-dir', 'mmdets', cwd=project)
    assert 'pkd/loss' in again.stdout + again.stderr
    exported = tool('export_student.py', trained, checkpoint, '--out', 'exported', cwd=project)
    assert exported.stdout.split()[-2:] == ['exported/student.py', 'exported/student.pth']
    third = tool('test.py', 'exported/student.py', 'exported/student.pth', cwd=project)
    assert metrics[0] in third.stdout + third.stderr


def test_a_wrong_input_is_one_line_and_exit_status_two(tmp_path):
    result = tool('train.py', STUDENT, '--distill', 'pdk', cwd=tmp_path, check=False)
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith('error:')]
    assert len(lines) == 1
    assert 'Traceback' not in result.stderr
    assert "unknown method 'pdk'; nearest: 'pkd'" in lines[0]


def test_list_taps_prints_names_and_shapes():
    out = tool('list_taps.py', STUDENT, '--match', 'neck')
    assert '1x48x20x20' in out.stdout  # images of 160 px, as its pipeline has them
    assert 'neck.out_convs.0' in out.stdout


def test_make_shapes_draws(tmp_path):
    tool('make_shapes.py', 'here', '--train', 2, '--val', 1, cwd=tmp_path)
    assert (tmp_path / 'here/annotations/val.json').is_file()


def test_resuming_goes_on_where_the_run_stopped(project):
    common = ['--work-dir', 'run', '--distill', 'pkd', '--teacher', 'teacher.py',
              '--teacher-checkpoint', 'teacher.pth']  # fmt: skip
    tool('train.py', 'student.py', *common, cwd=project)
    out = tool('train.py', 'student.py', *common, '--resume', '--cfg-options',
               'train_cfg.max_epochs=2', cwd=project)  # fmt: skip
    assert 'resumed epoch: 1' in out.stdout + out.stderr
    assert (project / 'run/epoch_2.pth').exists()


THREADS = """
import atexit, os
from pathlib import Path

@atexit.register
def note():
    names = [p.read_text() for p in Path('/proc/self/task').glob('*/comm')]
    Path(f'threads.{os.environ.get("RANK")}').write_text(''.join(names))
"""


def started(script, *args, cwd, **environment):
    """A script of ours for several ranks, started as a user does."""
    port = 20000 + os.getpid() % 20000
    return subprocess.Popen(
        ['bash', str(ROOT / 'tools' / script), *map(str, args)],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, 'PYTHONPATH': str(cwd), 'PORT': str(port), 'OMP_NUM_THREADS': '1',
             'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}', **environment},
    )  # fmt: skip


def finished(process):
    out, _ = process.communicate()
    assert process.returncode == 0, out[-3000:]
    return out


DISTILLED = ['--distill', 'pkd', '--teacher', 'teacher.py', '--teacher-checkpoint', 'teacher.pth']


def precision(log):
    return re.search(r'coco/bbox_mAP: (\S+)', log)[1]


def test_two_ranks_train_and_test_and_leave_no_thread_that_could_abort_their_exit(project):
    with (project / 'ourproject/__init__.py').open('a') as package:
        package.write(THREADS)
    arguments = ['student.py', 2, *DISTILLED, '--work-dir', 'ranks']
    finished(started('dist_train.sh', *arguments, cwd=project))
    left = [(project / f'threads.{rank}').read_text() for rank in range(2)]
    assert [name for name in ''.join(left).split() if 'gloo' in name] == []
    arguments = ['student.py', 'ranks/epoch_1.pth']
    alone = tool('test.py', *arguments, cwd=project)
    ranks = finished(started('dist_test.sh', *arguments, 2, cwd=project))
    assert precision(ranks) == precision(alone.stdout + alone.stderr)


@pytest.mark.slow
def test_the_line_for_several_machines(project):
    arguments = ['student.py', 1, *DISTILLED]
    machines = [
        started('dist_train.sh', *arguments, '--work-dir', f'machine{m}', cwd=project,
                NNODES='2', MASTER_ADDR='127.0.0.1')
        for m in range(2)
    ]  # fmt: skip
    for machine in machines:
        finished(machine)
    (checkpoint,) = project.glob('machine?/epoch_1.pth')  # rank 0's alone
    assert len(read_checkpoint(checkpoint)['mmkd_resume']['ranks']) == 2


# -- configs ---------------------------------------------------------------------------------------


@pytest.fixture
def config(shapes):
    """A plain config whose data is there."""
    cfg = h.runner_config('retinanet', 'work', shapes)
    cfg.work_dir = None
    return cfg


def test_amp_takes_the_machines_wrapper(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert training_config(config, amp=True).optim_wrapper.type == 'mmkd.CpuAmpOptimWrapper'
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    wrapper = training_config(config, amp=True).optim_wrapper
    assert (wrapper.type, wrapper.loss_scale) == ('AmpOptimWrapper', 'dynamic')


def test_the_work_dir_follows_line_config_name(config, tmp_path):
    config.dump(tmp_path / 'mine.py')
    assert training_config(tmp_path / 'mine.py').work_dir == 'work_dirs/mine'
    distil = dict(method='pkd', teacher='t.py', checkpoint='t.pth')
    assert training_config(tmp_path / 'mine.py', **distil).work_dir == 'work_dirs/mine_pkd'
    assert training_config(tmp_path / 'mine.py', work_dir='there').work_dir == 'there'


def test_overrides_come_before_distillation_and_its_options_after(config):
    cfg = training_config(
        config,
        cfg_options={'model.bbox_head.num_classes': 9},
        method='pkd',
        teacher='t.py',
        checkpoint='t.pth',
        distill_options={'pkd.tap.at': 'neck', 'teacher.precision': 'bf16'},
        trust_checkpoint=True,
    )
    assert cfg.model.student.bbox_head.num_classes == 9
    assert cfg.model.methods.pkd.tap == dict(at='neck')
    assert cfg.model.teacher.precision == 'bf16'
    assert cfg.model.teacher.trust_checkpoint


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(teacher='t.py'), ['--distill METHOD']),
        (dict(method='pkd'), ['pkd needs a teacher']),
        (dict(auto_scale_lr=True), ['base_batch_size']),
        (dict(resume='gone.pth'), ['gone.pth', 'no such file']),
    ],
)
def test_wrong_arguments_are_named(config, options, words):
    with pytest.raises(InputError) as error:
        training_config(config, **options)
    assert all(word in str(error.value) for word in words)


def test_a_missing_config_is_named():
    with pytest.raises(InputError, match=r'config gone\.py: no such file'):
        training_config('gone.py')


def test_a_data_set_that_is_missing_is_named_with_its_cure():
    with pytest.raises(InputError) as error:
        training_config(STUDENT, cfg_options={'train_dataloader.dataset.data_root': 'gone/shapes/'})
    assert 'train_dataloader.dataset.data_root: gone/shapes does not exist' in str(error.value)
    assert 'python tools/make_shapes.py gone/shapes' in str(error.value)


def test_a_missing_annotation_file_of_a_wrapped_data_set_is_named(config):
    inner = config.train_dataloader.dataset
    inner.ann_file = 'annotations/gone.json'
    config.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=inner)
    with pytest.raises(InputError, match=r'dataset\.dataset\.ann_file.*gone\.json does not exist'):
        training_config(config)
    config.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[inner])
    with pytest.raises(InputError, match=r'dataset\.datasets\[0\]\.ann_file'):
        training_config(config)


def test_a_hostile_checkpoint_to_resume_from_does_not_run(config, tmp_path):
    file = tmp_path / 'hostile.pth'
    torch.save(dict(state_dict={}, extra=Hostile(tmp_path / 'ran')), file)
    with pytest.raises(InputError, match='wants to run'):
        training_config(config, resume=str(file))
    config.load_from = str(file)
    with pytest.raises(InputError, match='wants to run'):
        training_config(config)
    assert not (tmp_path / 'ran').exists()
