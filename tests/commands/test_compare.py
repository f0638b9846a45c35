"""A comparison: its runs in order, what is on disk, wrong inputs, the table; the process only pretends."""

import io
import json
import re
import runpy
import sys
from pathlib import Path

import helpers as h
import pytest
import torch
from mmengine.config import Config
from rich.console import Console
from scipy import stats

from mmkd import InputError
from mmkd.commands import arms
from mmkd.commands.arms import ALONE, LONGER, Plan, Run, parse_arms, read_runs
from mmkd.commands.compare import (
    Comparison,
    check,
    compare,
    ended_runs,
    key_values,
    listing,
    metric_of,
    outcome,
    pending,
    run_all,
    stretched,
    time_factor,
)
from mmkd.family.building import build_model, model_config

TOOL = Path(__file__).parents[2] / 'tools/compare.py'
QUIET = Console(quiet=True)
CFG = Config(
    dict(train_cfg=dict(max_epochs=10), param_scheduler=[dict(milestones=[6], end=10, gamma=0.1)])
)


class Pretender:
    """Stands for the process of a run; scores and seconds by arm, seeds add to them."""

    def __init__(self, **scores):
        self.scores = dict(dict(alone=50.0, kd=52.0, pkd=50.5), **scores)
        self.commands, self.status = [], {}

    def __call__(self, command, output, threads):
        self.commands.append(command)
        method = command[command.index('--distill') + 1] if '--distill' in command else ALONE
        seed = int(re.search(r'randomness\.seed=(\d+)', command[-1])[1])
        output.write_text(f'$ command\n{method} said this\n')
        log = output.parent / '20260101_000000/vis_data/scalars.json'
        log.parent.mkdir(parents=True, exist_ok=True)
        # the differences to alone are 2 + seed / 10
        score = self.scores[method] + seed * (1.1 if method == 'kd' else 1.0)
        log.write_text(json.dumps({'accuracy/top1': score, 'other': 1.0, 'step': 1}) + '\n')
        return self.status.get((method, seed), 0)


@pytest.fixture
def process(monkeypatch):
    pretender = Pretender()
    monkeypatch.setattr(arms, 'run_process', pretender)
    monkeypatch.setattr(arms, '_seconds_before', lambda folder: 0.0)
    clock = iter(range(0, 10**6, 10))
    monkeypatch.setattr(arms.time, 'monotonic', lambda: next(clock))
    return pretender


def asked(folder, specs=('kd',), seeds=(0, 1, 2), **options):
    plan = Plan('s.py', parse_arms(specs), folder, 't.py', 't.pth')
    one = Comparison(plan, seeds, **options)
    vars(one)['cfg'] = CFG  # there is no file
    return one


def seen(process):
    """Method and seed of the processes."""
    return [
        (c[c.index('--distill') + 1] if '--distill' in c else ALONE, int(c[-1].split('=')[1]))
        for c in process.commands
    ]


# -- runs ------------------------------------------------------------------------------------------


def test_runs_go_seed_by_seed_and_not_twice(process, tmp_path):
    run_all(asked(tmp_path, seeds=(0, 1)), QUIET)
    assert seen(process) == [(ALONE, 0), ('kd', 0), (ALONE, 1), ('kd', 1)]
    run_all(asked(tmp_path, ['kd', 'pkd'], seeds=(0, 1, 2)), QUIET)
    new = [('pkd', 0), ('pkd', 1), (ALONE, 2), ('kd', 2), ('pkd', 2)]
    assert seen(process)[4:] == new


def test_what_was_stopped_goes_on_where_it_was(process, tmp_path):
    process.status['kd', 1] = 143
    with pytest.raises(SystemExit):
        run_all(asked(tmp_path), QUIET)
    assert len(read_runs(tmp_path)) == 3
    process.status.clear()
    run_all(asked(tmp_path), QUIET)
    assert seen(process)[3:] == [('kd', 1), ('kd', 1), (ALONE, 2), ('kd', 2)]
    assert process.commands[3] == process.commands[4]
    assert '--resume auto' in ' '.join(process.commands[4])


def test_a_run_that_fails_stops_no_other_and_is_tried_again_when_told(process, tmp_path):
    process.status['kd', 0] = 1
    run_all(asked(tmp_path), QUIET)
    assert len(process.commands) == 6
    found = outcome(asked(tmp_path))
    assert found.failed == ['kd, seed 0: failed, status 1: kd said this']
    assert [row.seeds for row in found.rows] == [3, 2]
    process.status.clear()
    assert pending(asked(tmp_path), ended_runs(asked(tmp_path)), retry=False) == []
    run_all(asked(tmp_path), QUIET, retry=True)
    assert seen(process)[6:] == [('kd', 0)]
    assert outcome(asked(tmp_path)).failed == []


def test_two_processes_share_the_runs_of_a_folder(process, tmp_path, monkeypatch):
    said = Console(record=True, width=100, file=io.StringIO())
    other = Console(record=True, width=100, file=io.StringIO())

    def run(command, output, threads):
        if not process.commands:  # while the first run goes on, another process comes and goes
            process.commands.append('first')
            run_all(asked(tmp_path, seeds=(0, 1)), other)
            process.commands.remove('first')
        return process(command, output, threads)

    monkeypatch.setattr(arms, 'run_process', run)
    run_all(asked(tmp_path, seeds=(0, 1)), said)
    assert sorted(seen(process)) == [(ALONE, 0), (ALONE, 1), ('kd', 0), ('kd', 1)]
    assert other.export_text().splitlines()[:2] == [
        '1/4  alone, seed 0',
        '     another process runs it',
    ]
    assert said.export_text().count('another process has run it') == 3
    assert len(read_runs(tmp_path)) == 4


def test_nothing_but_failures_is_one_message(process, tmp_path):
    process.status = {(method, 0): 2 for method in (ALONE, 'kd')}
    run_all(asked(tmp_path, seeds=(0,)), QUIET)
    with pytest.raises(InputError, match='no run ended well: alone, seed 0: status 2: alone said'):
        outcome(asked(tmp_path, seeds=(0,)))


def test_an_index_is_the_place_in_the_whole_list_whatever_has_ended(process, tmp_path):
    whole = listing(asked(tmp_path))
    assert [line.split('  ')[0] for line in whole] == ['0', '1', '2', '3', '4', '5']
    run_all(asked(tmp_path), QUIET, index=3)
    assert seen(process) == [('kd', 1)]
    assert listing(asked(tmp_path)) == whole[:3] + whole[4:]
    run_all(asked(tmp_path), QUIET, index=3)
    run_all(asked(tmp_path), QUIET, index=4)
    assert seen(process) == [('kd', 1), (ALONE, 2)]
    for index in (-1, 6):
        with pytest.raises(InputError, match=f'--index {index}: there are 6 runs, from 0'):
            run_all(asked(tmp_path), QUIET, index=index)


def test_the_list_has_the_commands(tmp_path):
    line = listing(asked(tmp_path, ['dpk:dpk.level_weights=[0.6,1.0]'], seeds=(7,)))[1]
    command = 'python tools/train.py s.py --work-dir'
    assert line.startswith(f'1  dpk:dpk.level_weights=[0.6,1.0], seed 7: {command}')
    assert "--distill-options 'dpk.level_weights=[0.6,1.0]' --cfg-options randomness" in line


def test_results_of_another_command_are_refused(process, tmp_path):
    run_all(asked(tmp_path, seeds=(0,)), QUIET)
    other = Plan('other.py', parse_arms(['kd']), tmp_path)
    with pytest.raises(InputError) as caught:
        ended_runs(Comparison(other, (0,)))
    assert (
        'has the result of alone, seed 0, from another command: python tools/train.py s.py'
        in str(caught.value)
    )
    assert ended_runs(Comparison(other, (1,))) == {}


# -- the student alone for as long -----------------------------------------------------------------


def run_of(arm, seed, seconds=10.0, error=None, **metrics):
    return Run(arm, seed, metrics, seconds, '', '', [], error=error)


def test_the_student_alone_is_trained_for_as_many_seconds(process, tmp_path, monkeypatch):
    one = asked(tmp_path, seeds=(0, 1), same_time=True)
    assert one.keys[4:] == [(LONGER, 0), (LONGER, 1)]
    assert listing(one)[
        4
    ] == f'4  {LONGER}, seed 0: once the others have ended: their seconds say ' + (
        'for how many epochs'
    )
    with pytest.raises(
        InputError, match=r'needs the seconds .*; 4 have not ended, the first: alone'
    ):
        run_all(one, QUIET, index=5)
    run_all(asked(tmp_path, seeds=(0, 1)), QUIET)
    results = sorted(tmp_path.glob('kd_*/result.json'))
    for path, seconds in zip(results, (13, 17)):
        path.write_text(json.dumps(json.loads(path.read_text()) | dict(seconds=seconds)))
    run_all(one, QUIET)
    assert seen(process)[4:] == [(ALONE, 0), (ALONE, 1)]
    options = ['train_cfg.max_epochs=15', 'param_scheduler.0.milestones.0=9']
    assert process.commands[4][-4:] == [*options, 'param_scheduler.0.end=15', 'randomness.seed=0']
    assert [row.arm for row in outcome(one).rows] == [ALONE, 'kd', LONGER]


def test_the_factor_is_of_means_over_runs_that_ended_well(tmp_path):
    one = asked(tmp_path, ['kd', 'pkd'], seeds=(0,), same_time=True)
    runs = [run_of(ALONE, 0, 10), run_of('kd', 0, 14), run_of('pkd', 0, 99, error='why')]
    assert time_factor(one, {(r.arm, r.seed): r for r in runs}) == pytest.approx(1.4)
    runs[1].error = 'why'
    with pytest.raises(InputError, match='needs a run alone and a distilled one'):
        time_factor(one, {(r.arm, r.seed): r for r in runs})


def test_schedules_are_stretched_with_the_epochs():
    cfg = Config(
        dict(
            train_cfg=dict(max_iters=100, val_interval=10),
            param_scheduler=[
                dict(begin=0, end=20, by_epoch=False, start_factor=0.1),
                dict(T_max=80, begin=20, end=100, convert_to_iter_based=True),
            ],
            custom_hooks=[dict(type='PipelineSwitchHook', switch_epoch=8, priority=48)],
        )
    )
    options = key_values('', stretched(cfg, 1.25))
    cfg.merge_from_dict(options)
    assert cfg.train_cfg == dict(max_iters=125, val_interval=10)
    first, second = cfg.param_scheduler
    assert first == dict(begin=0, end=25, by_epoch=False, start_factor=0.1)
    assert second == dict(T_max=100, begin=25, end=125, convert_to_iter_based=True)
    assert cfg.custom_hooks == [dict(type='PipelineSwitchHook', switch_epoch=10, priority=48)]
    with pytest.raises(InputError, match='--same-time: train_cfg has no max_epochs or max_iters'):
        stretched(Config(dict(train_cfg=dict(type='Own'))), 2.0)


# -- what came out ---------------------------------------------------------------------------------


def test_the_table_has_the_paired_difference_of_the_runs(process, tmp_path):
    run_all(asked(tmp_path), QUIET)
    found = outcome(asked(tmp_path, smallest=1.0))
    interval = stats.ttest_1samp([2.0, 2.1, 2.2], 0).confidence_interval(0.95)
    row = found.rows[1]
    assert (row.difference.low, row.difference.high) == pytest.approx(tuple(interval))
    assert (found.metric, row.verdict, row.seconds_ratio) == ('accuracy/top1', 'GO', 1.0)
    written = json.loads((tmp_path / 'results.json').read_text())
    assert written == json.loads(json.dumps(found.as_dict()))
    assert [run['score'] for run in written['runs'] if run['arm'] == 'kd'] == [52.0, 53.1, 54.2]


def test_nothing_has_come_out_before_a_run_has_ended(tmp_path):
    assert outcome(asked(tmp_path)) is None


def test_what_is_written_depends_on_the_name(process, tmp_path):
    run_all(asked(tmp_path / 'work'), QUIET)
    found = outcome(asked(tmp_path / 'work'))
    found.write(tmp_path / 'new/table.md')
    found.write(tmp_path / 'table.json')
    assert '| kd | 53.10 |' in (tmp_path / 'new/table.md').read_text()
    assert json.loads((tmp_path / 'table.json').read_text())['metric'] == 'accuracy/top1'


def test_the_metric_is_the_one_asked_for_or_the_configs_or_the_usual_one():
    runs = [
        run_of('kd', 0, AP=1.0, mIoU=2.0, **{'accuracy/top1': 3.0}),
        run_of('kd', 1, AP=1, mIoU=2),
    ]
    best = dict(checkpoint=dict(save_best='AP'))
    automatic = dict(checkpoint=dict(save_best='auto'))
    assert metric_of(runs, 'AP', {}) == 'AP'
    assert metric_of(runs, None, best) == 'AP'
    assert metric_of(runs, None, automatic) == 'mIoU'
    assert metric_of(runs[:1], None, {}) == 'accuracy/top1'
    with pytest.raises(
        InputError, match="--metric: AQ was not measured in every run; nearest: 'AP'"
    ):
        metric_of(runs, 'AQ', best)
    with pytest.raises(InputError, match=r'coco/bbox_mAP or .* was not measured .*; known: .*AR'):
        metric_of([run_of('kd', 0, AR=1.0)], None, {})


# -- wrong inputs ----------------------------------------------------------------------------------


@pytest.fixture
def files(shapes, tmp_path):
    """A student, a teacher and its weights."""
    cfg = h.runner_config('classifier', tmp_path / 'work', shapes)
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size = 1, 4
    cfg.dump(tmp_path / 's.py')
    cfg.dump(tmp_path / 't.py')
    network = build_model(model_config(cfg))
    network.init_weights()
    torch.save(dict(state_dict=network.state_dict()), tmp_path / 't.pth')
    return tmp_path


def comparison(files, specs=('kd',), config='s.py', teacher='t.py', weights='t.pth', options=()):
    teacher = teacher and str(files / teacher)
    weights = weights and str(files / weights)
    named = parse_arms(specs)
    plan = Plan(str(files / config), named, files / 'out', teacher, weights, tuple(options))
    return Comparison(plan, (0,))


def test_a_right_comparison_is_not_refused(files):
    check(comparison(files, ['kd', 'frskd'], options=['train_cfg.max_epochs=7']))
    own = comparison(files, ['frskd'], teacher=None, weights=None, options=['a.b=[1,2]'])
    check(own)
    assert own.cfg.a.b == [1, 2]


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(config='absent.py'), 'absent.py'),
        (dict(teacher='absent.py'), 'absent.py'),
        (dict(weights='absent.pth'), 'absent.pth'),
        (dict(teacher=None, weights=None), '--arms kd: distill: kd needs a teacher'),
        (dict(specs=['frskd']), 't.py: no arm needs one; leave it out'),
        (dict(specs=['kd:kd.temprature=1']), 'nearest: .*temperature'),
        (dict(specs=['kd:pkd.weight=1']), "--arms kd:pkd.weight=1: distill: options for 'pkd'"),
        (dict(specs=['kd:temperature']), "the weight 'temperature' is no number"),
        (dict(options=['abc']), "--cfg-options 'abc': needed: KEY=VALUE"),
        (dict(options=['train_cfg=3']), 'train_cfg=3; needed: a Mapping'),
        (
            dict(options=['val_dataloader=None', 'val_cfg=None', 'val_evaluator=None']),
            'val_dataloader',
        ),
        (dict(options=['visualizer=None']), 'visualizer.vis_backends: has no LocalVisBackend'),
    ],
)
def test_wrong_input_is_one_message_before_anything_runs(changes, words, files, process):
    with pytest.raises(InputError, match=words):
        compare(comparison(files, **changes))
    assert process.commands == []
    assert not (files / 'out').exists()


def test_a_distillers_config_is_refused(files):
    Config(dict(model=dict(type='mmkd.Distiller'))).dump(files / 'd.py')
    with pytest.raises(InputError, match=r'd\.py: is a Distiller; give the plain config'):
        check(comparison(files, config='d.py'))


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(seeds=(0, 1, 0)), '--seeds: 0 is given more than once'),
        (dict(smallest=-0.1), '--smallest -0.1: must be 0 or more'),
        (dict(smallest=float('nan')), '--smallest nan: must be 0 or more'),
        (dict(specs=[ALONE], same_time=True), '--same-time: as long as what'),
    ],
)
def test_wrong_options_are_named(options, words, tmp_path):
    with pytest.raises(InputError, match=words):
        asked(tmp_path, **options)


# -- the tool --------------------------------------------------------------------------------------


def tool(files, monkeypatch, *more):
    """Run the tool on the files, and its exit status."""
    line = [str(TOOL), str(files / 's.py'), '--arms', 'kd', '--teacher', str(files / 't.py')]
    line += ['--teacher-checkpoint', str(files / 't.pth'), '--work-dir', str(files / 'out')]
    monkeypatch.setattr(sys, 'argv', [*line, *more])
    try:
        runpy.run_path(str(TOOL), run_name='__main__')
    except SystemExit as stop:
        return stop.code
    return 0


def test_the_tool_lists_runs_and_shows(files, process, monkeypatch, capsys):
    assert tool(files, monkeypatch, '--seeds', '0', '1', '--list') == 0
    listed = capsys.readouterr().out.splitlines()
    assert (len(listed), process.commands) == (4, [])
    assert tool(files, monkeypatch, '--seeds', '0', '1', '--index', '2') == 0
    assert seen(process) == [(ALONE, 1)]
    end = ['--smallest', '0.5', '--out', str(files / 'table.md'), '--threads', '1']
    assert tool(files, monkeypatch, '--seeds', '0', '1', *end) == 0
    shown = capsys.readouterr().out
    assert 'accuracy/top1, difference to alone by seed; differences from 0.5 on matter' in shown
    assert 'kd: INCONCLUSIVE, two seeds can agree by chance' in shown
    assert '+2.05' in (files / 'table.md').read_text()
    assert [line.split(': ', 1)[1].split()[1:] for line in listed] == [
        run.command[1:] for run in sorted(read_runs(files / 'out'), key=lambda r: (r.seed, r.arm))
    ]


def test_the_tool_says_that_runs_failed(files, process, monkeypatch, capsys):
    process.status['kd', 0] = 1
    assert tool(files, monkeypatch, '--seeds', '0', '--index', '1') == 1
    assert tool(files, monkeypatch, '--seeds', '0') == 1
    assert 'kd, seed 0: failed, status 1: kd said this' in capsys.readouterr().out
    assert tool(files, monkeypatch, '--seeds', '-1') == 2
    assert 'invalid seed value' in capsys.readouterr().err


@pytest.mark.slow
def test_two_real_runs(files, monkeypatch, capsys):
    assert tool(files, monkeypatch, '--seeds', '0', '--threads', '1') == 0
    alone, kd = read_runs(files / 'out')
    assert (alone.error, kd.error) == (None, None)
    assert {'accuracy/top1'} <= alone.metrics.keys() & kd.metrics.keys()
    assert alone.seconds > 0
    assert 'kd: no interval: it takes two seeds' in capsys.readouterr().out
    written = json.loads((files / 'out/results.json').read_text())
    assert [row['arm'] for row in written['rows']] == [ALONE, 'kd']
