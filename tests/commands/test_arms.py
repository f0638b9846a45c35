"""One run: its command, its process and signals, its result on disk."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from mmkd import InputError
from mmkd.commands import arms
from mmkd.commands.arms import (
    ALONE,
    Arm,
    Plan,
    installed,
    log_of,
    metrics_of,
    parse_arms,
    read_runs,
    run_arm,
    run_process,
)
from mmkd.version import __version__

ROOT = Path(__file__).parents[2]


def plan(folder, **changes):
    named = parse_arms(['kd', 'frskd', 'dpk:dpk.weight=auto,dpk.level_weights=[0.6,1.0]'])
    options = dict(teacher='t.py', teacher_checkpoint='t.pth', cfg_options=('a.b=1',), **changes)
    return Plan('s.py', named, folder, **options)


def script(folder, text):
    """A tool that does something else than to train."""
    path = folder / 'tool.py'
    path.write_text(f'import sys, time, signal\nfrom pathlib import Path\n{text}')
    return str(path)


def log(folder, entries, stamp='20260101_000000'):
    path = folder / stamp / 'vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(entry) + '\n' for entry in entries))
    return path


WORK = "work = Path(sys.argv[sys.argv.index('--work-dir') + 1])\n"
VALIDATES = f"""{WORK}
log = work / '20260101_000000/vis_data/scalars.json'
log.parent.mkdir(parents=True, exist_ok=True)
log.write_text('{{"accuracy/top1": 61.5, "step": 1, "time": 0.1, "data_time": 0.0}}')
"""


def test_an_arm_is_called_as_it_is_written():
    found = parse_arms(['kd', ALONE, 'pkd+kd:pkd.weight=3,kd.temperature=1.0,pkd.tap=[a=b,c]'])
    assert list(found) == [ALONE, 'kd', 'pkd+kd:pkd.weight=3,kd.temperature=1.0,pkd.tap=[a=b,c]']
    assert found[ALONE] == Arm()
    method, options = found[list(found)[2]].method, found[list(found)[2]].options
    assert (method, options) == (
        'pkd+kd',
        ('pkd.weight=3', 'kd.temperature=1.0', 'pkd.tap=[a=b,c]'),
    )


def test_an_arm_may_be_another_config(tmp_path):
    asked = Plan('s.py', parse_arms(['kd', 'pseudo.py']), tmp_path, 't.py', cfg_options=('a.b=1',))
    assert asked.arms['pseudo.py'] == Arm(config='pseudo.py')
    words = asked.command('pseudo.py', 3)
    assert words[:2] == ['tools/train.py', 'pseudo.py']
    assert '--distill' not in words
    assert words[-3:] == ['--cfg-options', 'a.b=1', 'randomness.seed=3']
    assert asked.command(ALONE, 3)[1] == 's.py'
    assert asked.folder('pseudo.py', 3) != asked.folder('pseudo_py', 3)


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        (['kd', 'kd'], '--arms kd: given 2 times; give it once'),
        (['alone', 'kd', 'alone'], '--arms alone: given 2 times'),
        (['dkp'], "--arms dkp: unknown method 'dkp'; nearest: 'dpk'"),
        (['pkd+kq'], "--arms pkd+kq: unknown method 'kq'"),
        (['alone:a=1'], "--arms 'alone:a=1': needed: methods, then options"),
        ([''], "--arms '': needed: methods"),
    ],
)
def test_wrong_arms_are_answered_by_one_message(given, words):
    with pytest.raises(InputError) as caught:
        parse_arms(given)
    assert words in str(caught.value)


def test_runs_of_one_seed_differ_in_the_method_alone(tmp_path):
    asked = plan(tmp_path, trust_checkpoint=True)
    folder = ['--work-dir', str(tmp_path / 'alone_3'), '--resume', 'auto', '--trust-checkpoint']
    shared = ['--cfg-options', 'a.b=1', 'randomness.seed=3']
    assert asked.command(ALONE, 3) == ['tools/train.py', 's.py', *folder, *shared]
    teacher = ['--teacher', 't.py', '--teacher-checkpoint', 't.pth']
    assert asked.command('kd', 3)[7:] == ['--distill', 'kd', *teacher, *shared]
    assert asked.command('frskd', 3)[7:] == ['--distill', 'frskd', *shared]
    dpk = list(asked.arms)[3]
    options = ['--distill-options', 'dpk.weight=auto', 'dpk.level_weights=[0.6,1.0]']
    assert asked.command(dpk, 3)[7:] == ['--distill', 'dpk', *teacher, *options, *shared]
    assert asked.command(ALONE, 3, ['x=2'])[-2:] == ['x=2', 'randomness.seed=3']


def test_every_run_has_a_folder_of_its_own(tmp_path):
    named = ['kd', 'kd:kd.weight=1.0', 'kd:kd.weight=1,0', 'kd:' + ','.join(['kd.weight=1'] * 50)]
    folders = {plan(tmp_path).folder(arm, seed) for arm in named for seed in (0, 1)}
    assert len(folders) == 8
    assert all(len(folder.name) < 80 and folder.parent == tmp_path for folder in folders)


def test_a_result_is_written_and_read(tmp_path):
    asked = plan(tmp_path / 'work', tool=script(tmp_path, VALIDATES), threads=1)
    run = run_arm(asked, 'kd', 0)
    assert (run.arm, run.seed, run.error, run.metrics) == ('kd', 0, None, {'accuracy/top1': 61.5})
    assert run.command == ['python', *asked.command('kd', 0)]
    assert run.versions == installed()
    assert run.machine.endswith(f', 1 of {os.cpu_count()} cores')
    assert read_runs(tmp_path / 'work') == [run]
    written = json.loads((asked.folder('kd', 0) / 'result.json').read_text())
    assert written == asdict(run)


def test_results_of_parallel_jobs_are_joined(tmp_path):
    asked = plan(tmp_path / 'work', tool=script(tmp_path, VALIDATES))
    keys = [(arm, seed) for arm in ('alone', 'kd') for seed in (0, 1)]
    for key in keys:
        run_arm(asked, *key)
    assert sorted((run.arm, run.seed) for run in read_runs(tmp_path / 'work')) == keys


@pytest.mark.parametrize(
    ('text', 'error'),
    [
        ("print('why')\nprint('error: no such file')\nprint()\nsys.exit(2)", 'status 2: error: no'),
        ('sys.exit(3)', 'status 3: it said nothing'),
        ('', 'it ended without a validation in its log'),
    ],
)
def test_a_failed_run_is_recorded_with_its_last_line(text, error, tmp_path):
    run = run_arm(plan(tmp_path, tool=script(tmp_path, text)), 'kd', 0)
    assert run.error.startswith(error)
    assert run.metrics == {}
    assert read_runs(tmp_path) == [run]


def test_the_last_line_is_one_of_the_last_attempt(tmp_path):
    asked = plan(tmp_path, tool=script(tmp_path, "print('first')\nsys.exit(1)"))
    run_arm(asked, 'kd', 0)
    script(tmp_path, 'sys.exit(1)')
    assert run_arm(asked, 'kd', 0).error == 'status 1: it said nothing'


@pytest.mark.parametrize('status', [130, 143, 138, -signal.SIGTERM])
def test_an_interrupted_run_has_no_result_and_its_status_is_passed_on(
    status, tmp_path, monkeypatch
):
    monkeypatch.setattr(arms, 'run_process', lambda *a: status)
    with pytest.raises(SystemExit) as stop:
        run_arm(plan(tmp_path), 'kd', 0)
    assert stop.value.code == (status if status > 0 else 143)
    assert read_runs(tmp_path) == []


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_passed_on_and_waited_for(number, tmp_path):
    """The training writes a checkpoint before it leaves."""
    tool = script(
        tmp_path,
        f"""
def leave(*_):
    time.sleep(0.2)
    Path(r'{tmp_path}/saved').touch()
    sys.exit(128 + {int(number)})
signal.signal({int(number)}, leave)
Path(r'{tmp_path}/ready').touch()
time.sleep(60)
""",
    )
    code = (
        # a job in the background ignores it
        'import signal; signal.signal(signal.SIGINT, signal.default_int_handler); '
        'from pathlib import Path; from mmkd.commands.arms import Arm, Plan, run_arm; '
        f"run_arm(Plan('s.py', {{'alone': Arm()}}, Path({str(tmp_path)!r}), tool={tool!r}), 'alone', 0)"
    )
    parent = subprocess.Popen(
        [sys.executable, '-c', code], env={**os.environ, 'PYTHONPATH': str(ROOT)}
    )
    while not (tmp_path / 'ready').exists():
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(number)
    assert parent.wait() == 128 + number
    assert (tmp_path / 'saved').exists()
    assert read_runs(tmp_path) == []


def test_threads_are_told_to_the_process(tmp_path):
    show = [sys.executable, '-c', "import os; print(os.environ['OMP_NUM_THREADS'])"]
    assert run_process(show, tmp_path / 'said', 3) == 0
    assert (tmp_path / 'said').read_text().splitlines()[-1] == '3'


def test_metrics_are_the_last_of_all_attempts(tmp_path):
    """The log of a training that is resumed at its end has none."""
    train = {'lr': 0.1, 'loss': 1.0, 'epoch': 1, 'step': 1}
    first = {'AP': 0.1, 'AR': 0.2, 'step': 1, 'time': 0.3, 'data_time': 0.1}
    log(tmp_path, [train, first, train, {'AP': 0.3, 'step': 2}])
    log(tmp_path, [train], '20260101_000100')
    assert metrics_of(tmp_path) == {'AP': 0.3, 'AR': 0.2}
    assert len(log_of(tmp_path)) == 5


def test_seconds_of_earlier_attempts_count(tmp_path):
    path = log(tmp_path, [{}], time.strftime('%Y%m%d_%H%M%S', time.localtime(1_700_000_000)))
    os.utime(path, (1_700_000_050, 1_700_000_050))
    assert arms._seconds_before(tmp_path) == 50


def test_versions_are_those_of_the_stack():
    found = installed()
    assert found['mmkd'] == __version__
    assert found['torch'].startswith('2.')
