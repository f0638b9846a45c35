"""Training under a real Slurm, a cluster of this one machine. Needs root; ``make test-slurm``."""

import copy
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import helpers as h
import pytest
import torch

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parents[2]
METHODS = {
    'dpk': dict(type='mmkd.DPK', size='light', tap=['backbone.layer2', 'backbone.layer3']),
    'frskd': dict(type='mmkd.FRSKD', tap=['backbone.layer2', 'backbone.layer3']),
}
EPOCHS = 6


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp('slurm')
    script = ROOT / 'tools/slurm_cluster.sh'
    subprocess.run(['bash', script, 'up', folder], check=True)
    yield folder
    subprocess.run(['bash', script, 'down', folder], check=True)
    for daemon in ('slurmctld', 'slurmd'):
        left = subprocess.run(['pgrep', '-x', daemon], capture_output=True, check=False)
        assert left.stdout == b'', daemon


@pytest.fixture
def project(cluster, shapes, tmp_path, monkeypatch):
    """A folder with configs of a plain student and of distillations, and the tools in it."""
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    cfg = h.runner_config('classifier', 'unused', shapes)
    cfg.train_cfg.update(max_epochs=EPOCHS, val_interval=EPOCHS)
    cfg.train_dataloader.dataset.indices = 16
    cfg.work_dir, cfg.log_level = None, 'INFO'
    wide = h.classifier(16)
    wide.head.num_classes = cfg.model.head.num_classes
    for name, method in METHODS.items():
        mine = copy.deepcopy(cfg)
        mine.custom_imports = dict(imports=['mmkd'])
        mine.model = dict(type='mmkd.Distiller', student=cfg.model, methods={name: method})
        if name == 'dpk':
            mine.model.teacher = dict(config=wide, checkpoint='untrained')
        mine.dump(tmp_path / f'{name}.py')
    monkeypatch.setenv('SLURM_CONF', str(cluster / 'slurm.conf'))
    monkeypatch.setenv('PATH', f'{Path(sys.executable).parent}:{os.environ["PATH"]}')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    for name, value in dict(GPUS='2', GPUS_PER_NODE='0', CPUS_PER_TASK='1').items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shell(*command):
    result = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def weights(path):
    return torch.load(path, weights_only=False)['state_dict']


def same(ours, theirs):
    ours, theirs = weights(ours), weights(theirs)
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def documented_script():
    """The batch script that docs/cluster.md prints."""
    return re.search(r'```bash\n(.*?)```', (ROOT / 'docs/cluster.md').read_text(), re.DOTALL)[1]


def wait_for(condition, seconds=240):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, shell('squeue', '--long')
        time.sleep(0.2)


@pytest.mark.parametrize('name', METHODS)
def test_two_tasks_train(name, project):
    shell('tools/slurm_train.sh', 'debug', name, f'{name}.py', 'run')
    checkpoint = project / f'run/epoch_{EPOCHS}.pth'
    content = torch.load(checkpoint, weights_only=False)
    assert len(content['mmkd_resume']['ranks']) == 2
    assert content['meta']['iter'] == EPOCHS * 4
    shell('tools/slurm_test.sh', 'debug', name, f'{name}.py', checkpoint)


def test_a_stopped_job_goes_back_into_the_queue_and_ends_like_one_that_was_not(project):
    (project / 'distil.sbatch').write_text(documented_script())
    shell('sbatch', '--wait', '--array=1', '--export=ALL,CONFIG=dpk.py', 'distil.sbatch')
    straight = project / 'straight.pth'
    (project / f'work_dirs/distil-1/epoch_{EPOCHS}.pth').rename(straight)
    shell('rm', '-r', 'work_dirs')
    out = shell('sbatch', '--parsable', '--array=1', '--export=ALL,CONFIG=dpk.py', 'distil.sbatch')
    job = out.strip()
    folder = project / 'work_dirs/distil-1'
    wait_for((folder / 'epoch_1.pth').exists)
    shell('scancel', '--signal=USR1', job)
    wait_for(lambda: (folder / 'interrupted.pth').exists())
    wait_for(lambda: job not in shell('squeue', '-h', '-o', '%F'))
    log = (project / f'slurm-{job}_1.out').read_text()
    assert 'SIGUSR1: stopped after iteration' in log
    assert 'resumed epoch' in log
    assert same(folder / f'epoch_{EPOCHS}.pth', straight)


def test_an_array_has_a_seed_for_each_job(project):
    (project / 'distil.sbatch').write_text(documented_script())
    shell('sbatch', '--wait', '--array=0-1', '--export=ALL,CONFIG=frskd.py', 'distil.sbatch')
    ends = [project / f'work_dirs/distil-{seed}/epoch_{EPOCHS}.pth' for seed in (0, 1)]
    assert [torch.load(end, weights_only=False)['meta']['seed'] for end in ends] == [0, 1]
    assert not same(*ends)
