import io
import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import setuptools
import torch
from rich.console import Console

import mmkd_cli
from mmkd import InputError
from mmkd.commands import demo
from mmkd.core.teacher import Teacher
from mmkd.datasets import CLASSES, make_shapes
from mmkd.family.building import build_model, load_config, model_config
from mmkd.files.checkpoints import classes_of, load_weights, read_checkpoint, weights_of

ROOT = Path(__file__).parents[2]
CARD = json.loads((ROOT / demo.CARD).read_text())


def metrics(every, **classes):
    values = {f'{name}_precision': classes.get(name, every) for name in CLASSES}
    return dict(bbox_mAP=every, **values)


def all_metrics(alone=0.4, distilled=0.5, teacher=0.7, **classes):
    runs = dict(
        alone=metrics(alone), distilled=metrics(distilled, **classes), teacher=metrics(teacher)
    )
    return {**runs, 'plain': dict(runs['distilled'])}


# -- the claims ------------------------------------------------------------------------------------


def test_the_claims_hold_with_their_numbers():
    claims = demo.claims_of(all_metrics())
    assert all(claims.values())
    text = '\n'.join(claims)
    assert 'the teacher has AP 0.700 (at least 0.60)' in text
    assert 'the student alone 0.400 (at least 0.25)' in text
    assert 'the distilled student +0.100 (at least +0.06)' in text
    assert 'plain mmdet, which cannot import mmkd: 0.500, the same in every class' in text


@pytest.mark.parametrize(
    ('changes', 'failing'),
    [
        (dict(teacher=0.599), ['the teacher has AP 0.599']),
        (dict(alone=0.249), ['the student alone 0.249']),
        (dict(alone=0.441), ['the distilled student +0.059']),
        (dict(ring=0.39, star=0.4), ['in every class, but not in ring, star']),
        (dict(cross=0.71), ['in every class, but not in cross']),
    ],
)
def test_a_claim_that_does_not_hold_is_named(changes, failing):
    claims = demo.claims_of(all_metrics(**changes))
    wrong = [claim for claim, holds in claims.items() if not holds]
    assert len(wrong) == len(failing)
    assert all(part in claim for part, claim in zip(failing, wrong))


def test_a_gain_of_just_what_is_claimed_holds():
    assert all(demo.claims_of(all_metrics(alone=0.44)).values())


@pytest.mark.parametrize('key', ['bbox_mAP', 'ring_precision'])
def test_another_ap_in_plain_mmdet_is_named(key):
    runs = all_metrics()
    runs['plain'][key] -= 0.001
    assert next(c for c, holds in demo.claims_of(runs).items() if not holds).endswith(
        'NOT the same'
    )


def test_the_table_has_every_class_and_the_gain():
    text = io.StringIO()
    Console(file=text, width=80).print(demo.table_of(all_metrics(ring=0.45)))
    lines = [line.split() for line in text.getvalue().splitlines()]
    cells = {line[1]: line[3::2] for line in lines if len(line) > 8}
    assert cells['AP'] == ['alone', 'distilled', 'gain', 'teacher']
    assert cells['all'] == ['0.400', '0.500', '+0.100', '0.700']
    assert cells['ring'] == ['0.400', '0.450', '+0.050', '0.700']
    assert set(cells) == {'AP', 'all', *CLASSES}


# -- the teacher -----------------------------------------------------------------------------------


def test_the_stored_teacher_is_the_one_that_was_measured():
    assert demo.check_teacher(ROOT) == CARD
    assert CARD['command'] == demo.TEACHER_COMMAND
    assert CARD['metrics']['bbox_mAP'] >= demo.LEAST_TEACHER
    assert (ROOT / demo.WEIGHTS).stat().st_size < 5e6


def test_another_file_is_refused(tmp_path):
    folder = tmp_path / demo.FOLDER
    folder.mkdir(parents=True)
    shutil.copy(ROOT / demo.CARD, folder)
    (tmp_path / demo.WEIGHTS).write_bytes((ROOT / demo.WEIGHTS).read_bytes() + b'!')
    with pytest.raises(
        InputError, match=r'teacher\.pth: its sha256 is .* train the teacher anew: python'
    ):
        demo.check_teacher(tmp_path)


def test_the_teacher_is_stored_in_half_precision_and_fits_its_config_strictly():
    content = read_checkpoint(ROOT / demo.WEIGHTS)
    assert classes_of(content) == CLASSES
    weights = weights_of(content)
    assert {w.dtype for w in weights.values()} <= {torch.float16, torch.int64}
    model = build_model(model_config(load_config(ROOT / demo.TEACHER)))
    assert load_weights(model, weights).clean
    assert all(p.dtype == torch.float32 for p in model.parameters())
    spec = load_config(ROOT / demo.DISTILLED).model.teacher
    assert isinstance(Teacher(**spec), Teacher)


def test_storing_halves_floats_and_drops_what_is_of_training(tmp_path):
    (tmp_path / demo.FOLDER).mkdir(parents=True)
    state = {'a': torch.rand(3), 'n': torch.tensor(7), 'distillation.b': torch.rand(2)}
    torch.save(dict(state_dict=state, optimizer=dict(x=1)), tmp_path / 'epoch_1.pth')
    demo.store_teacher(tmp_path / 'epoch_1.pth', tmp_path)
    content = read_checkpoint(tmp_path / demo.WEIGHTS)
    assert set(content) == {'meta', 'state_dict'}
    assert torch.equal(content['state_dict']['a'], state['a'].half())
    assert content['state_dict']['n'] == 7
    assert set(content['state_dict']) == {'a', 'n'}


def test_the_package_holds_teacher_and_card(monkeypatch):
    given = {}
    monkeypatch.setattr(setuptools, 'setup', given.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / 'setup.py'))
    package = ROOT / 'mmkd'
    shipped = {
        p.resolve() for pattern in given['package_data']['mmkd'] for p in package.glob(pattern)
    }
    for name in (demo.WEIGHTS, demo.CARD, demo.TEACHER, demo.STUDENT, demo.DISTILLED):
        assert (ROOT / name).resolve() in shipped


@pytest.mark.slow
def test_the_stored_teacher_has_the_ap_that_its_card_says(tmp_path):
    make_shapes(ROOT / demo.DATA, demo.SPEC, quiet=True)
    command = demo._test(demo.TEACHER, ROOT / demo.WEIGHTS, tmp_path)
    found = demo.Run('teacher', command, tmp_path, print)(ROOT)
    assert found == pytest.approx(CARD['metrics'], abs=0.005)
    boxes = json.loads((tmp_path / 'boxes.bbox.json').read_text())
    assert len({box['image_id'] for box in boxes}) == demo.SPEC.val


# -- the configs -----------------------------------------------------------------------------------


def test_both_students_have_one_model_schedule_seed_and_data():
    alone, distilled = (load_config(ROOT / config) for config in (demo.STUDENT, demo.DISTILLED))
    assert distilled.model.student == alone.model
    only = {'model', 'custom_imports', 'custom_hooks', 'sizes', *distilled.model.methods}
    assert {k for k in distilled if distilled[k] != alone.get(k)} <= only
    assert 'seed' in alone.randomness


def test_the_teacher_differs_in_backbone_schedule_and_images():
    student, teacher = (load_config(ROOT / config) for config in (demo.STUDENT, demo.TEACHER))
    assert student.model.bbox_head == teacher.model.bbox_head
    assert student.model.backbone.depth < teacher.model.backbone.depth
    assert teacher.train_dataloader.dataset.data_root == f'{demo.TEACHER_DATA}/'
    for part in ('val', 'test'):
        assert teacher[f'{part}_dataloader'] == student[f'{part}_dataloader']
    assert student.val_dataloader.dataset.data_root == f'{demo.DATA}/'


# -- the runs --------------------------------------------------------------------------------------

GOOD = "print('Epoch(val) [1][6/6]  coco/ring_precision: 0.5  coco/bbox_mAP: 0.4000  time: 0.2')"


def test_a_run_reads_ap_and_progress_and_keeps_all_that_is_said(tmp_path):
    lines = []
    epoch = 'Epoch(train)  [3][{}/75]  lr: 2e-3  eta: 0:00:44  time: 0.2  loss: 1.384  loss_cls: 1'
    code = f"import os; print('noise', os.environ['OMP_NUM_THREADS'])\nprint({epoch.format(50)!r})"
    run = demo.Run(
        'alone',
        ['-c', f'{code}\nprint({epoch.format(75)!r})\n{GOOD}'],
        tmp_path / 'w',
        lines.append,
    )
    assert run(tmp_path) == dict(ring_precision=0.5, bbox_mAP=0.4)
    assert lines == ['alone      epoch 3, loss 1.38, 0:00:44 left', 'alone      AP 0.400']
    assert 'noise 1\n' in (tmp_path / 'w/output.txt').read_text()


@pytest.mark.parametrize(
    ('code', 'said'),
    [("raise ValueError('the reason')", 'the reason'), ("print('no AP here')", 'no AP here')],
)
def test_the_error_of_a_run_is_shown(tmp_path, code, said):
    run = demo.Run('alone', ['-c', code], tmp_path, print)
    with pytest.raises(demo.RunError, match=f'(?s){said}.*alone failed .*output.txt'):
        run(tmp_path)


def test_a_run_that_measures_nothing_may_print_no_ap(tmp_path):
    assert demo.Run('teacher', ['-c', 'print(1)'], tmp_path, print, measures=False)(tmp_path) == {}


def test_a_failure_stops_the_other_runs(tmp_path):
    def run(name, code):
        return demo.Run(name, ['-c', code], tmp_path / name, print)

    long = run('long', 'import time; time.sleep(600)')
    never = run('never', GOOD)
    with pytest.raises(demo.RunError, match='bad failed'):
        demo._in_chains(
            [[long, never], [run('bad', 'raise SystemExit(3)'), run('next', GOOD)]], tmp_path
        )
    assert long.process.returncode != 0
    assert never.process is None
    assert not (tmp_path / 'next').exists()


def test_chains_run_in_order(tmp_path):
    first = demo.Run('first', ['-c', f"{GOOD}\nopen('mark', 'w')"], tmp_path / 'a', print)
    second = demo.Run('second', ['-c', f"open('mark')\n{GOOD}"], tmp_path / 'b', print)
    demo._in_chains([[first, second]], tmp_path)
    assert second.metrics['bbox_mAP'] == 0.4


def test_plain_mmdet_cannot_import_mmkd(tmp_path):
    """The command is run up to mmdet's tool, in whose place a probe is."""
    (tmp_path / 'last_checkpoint').write_text('weights.pth\n')
    flag, code = demo._plain_test('c.py', tmp_path, tmp_path / 'plain')
    before, _, _ = code.rpartition(';')
    probe = 'import importlib.util; print(sys.argv[1:]); import mmkd'
    run = demo.Run('plain', [flag, f'{before};{probe}'], tmp_path / 'w', print)
    with pytest.raises(demo.RunError, match='import of mmkd halted') as error:
        run(ROOT)
    assert f"['c.py', 'weights.pth', '--work-dir', '{tmp_path}/plain']" in str(error.value)


def test_the_whole_demonstration_with_stand_ins(tmp_path, monkeypatch, capsys):
    """Everything but the trainings: set-up, table, verdict, picture and where files lie."""
    small = demo.ShapesSpec(**{**vars(demo.SPEC), 'train': 2, 'val': 8})
    monkeypatch.setattr(demo, 'SPEC', small)
    root = tmp_path / 'root'
    shutil.copytree(ROOT / 'configs', root / 'configs')
    monkeypatch.setattr(demo, '_run_all', lambda root, out, console: stand_ins(root, out))
    assert demo.run_demo(root, tmp_path / 'out')
    said = capsys.readouterr().out
    assert (tmp_path / 'out/comparison.png').is_file()
    assert json.loads((tmp_path / 'out/results.json').read_text()) == all_metrics()
    for part in ('M parameters', 'over all 8 images', 'comparison.png', 'epoch_12.pth', 'yes'):
        assert part in said
    assert sys.warnoptions == [] or 'Warning' not in said


def stand_ins(root, out):
    """What the runs leave behind: the teacher finds all objects, the distilled student half of them."""
    coco = json.loads((root / demo.DATA / 'annotations/val.json').read_text())
    boxes = [{**a, 'score': 0.9} for a in coco['annotations']]
    for name, found in dict(alone=[], distilled=boxes[::2], teacher=boxes).items():
        (out / name).mkdir(parents=True)
        (out / name / 'boxes.bbox.json').write_text(json.dumps(found))
    (out / 'distilled/last_checkpoint').write_text(str(out / 'distilled/epoch_12.pth'))
    return all_metrics()


@pytest.mark.parametrize(
    ('outcome', 'status'), [(True, None), (False, 1), ('the reason', 'the reason')]
)
def test_the_tool_ends_with_the_outcome(monkeypatch, tmp_path, outcome, status):
    def run_demo(root, out):
        assert (root, out) == (ROOT, tmp_path)
        if isinstance(outcome, str):
            raise demo.RunError(outcome)
        return outcome

    monkeypatch.setattr(demo, 'run_demo', run_demo)
    line = ['demo', '--out', str(tmp_path)]
    if status is None:
        mmkd_cli.main(line)
        return
    with pytest.raises(SystemExit) as end:
        mmkd_cli.main(line)
    assert end.value.code == status


def test_without_a_checkout_the_data_go_into_the_output_folder(monkeypatch, tmp_path):
    installed = tmp_path / 'site-packages/mmkd/.mim'
    for name in ('configs', 'tools'):
        (installed / name).mkdir(parents=True)
    assert demo.demo_root(tmp_path / 'out') == ROOT
    monkeypatch.setattr(demo, 'ROOT', installed)
    root = demo.demo_root(tmp_path / 'out')
    assert (root, demo.demo_root(tmp_path / 'out')) == (tmp_path / 'out/files', root)
    assert (root / 'configs').resolve() == installed / 'configs'


def test_the_teacher_is_trained_stored_and_described(monkeypatch, tmp_path):
    """The trainings' place is taken by a checkpoint and by metrics."""
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    monkeypatch.setattr(demo, 'make_shapes', lambda *args: None)
    work = tmp_path / 'work'
    commands = []

    def run(self, root):
        commands.append(self.command)
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(dict(state_dict={'a': torch.ones(2)}), work / 'epoch_6.pth')
        (work / 'last_checkpoint').write_text(str(work / 'epoch_6.pth'))
        return metrics(0.7)

    monkeypatch.setattr(demo.Run, '__call__', run)
    demo.train_teacher(tmp_path, work)
    assert commands[0] == ['tools/train.py', demo.TEACHER, '--work-dir', str(work), '--resume']
    assert commands[1][:3] == ['tools/test.py', demo.TEACHER, str(tmp_path / demo.WEIGHTS)]
    card = demo.check_teacher(tmp_path)
    assert card['metrics'] == metrics(0.7)
    assert read_checkpoint(tmp_path / demo.WEIGHTS)['state_dict']['a'].dtype == torch.float16
