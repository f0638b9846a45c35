"""Pictures of what alone, distilled and teacher find on the same images."""

from __future__ import annotations

import json

import helpers as h
import pytest
import report_logs as logs
import torch
from mmengine.config import Config

from mmkd import InputError
from mmkd.commands.report import pictures, write_report
from mmkd.commands.report.numbers import numbers_of
from mmkd.commands.report.pictures import boxes_of, pair_of, teacher_of
from mmkd.commands.report.runs import name_arms, read_training
from mmkd.config.conversion import distill
from mmkd.family.building import build_model, model_config


@pytest.fixture
def runs(shapes, tmp_path, monkeypatch):
    """Two work dirs with checkpoints of small detectors, and their teacher."""
    monkeypatch.chdir(tmp_path)
    cfg, teacher = (h.runner_config('retinanet', tmp_path / 'work', shapes) for _ in range(2))
    cfg.val_dataloader.dataset.indices = 4
    model = build_model(model_config(teacher))
    teacher.dump(tmp_path / 'teacher.py')
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'teacher.pth')
    distilled = distill(cfg, 'pkd', str(tmp_path / 'teacher.py'), str(tmp_path / 'teacher.pth'))
    for name, config in (('alone', cfg), ('pkd', distilled)):
        folder = logs.trained(tmp_path / name, 0.4, distilled=name == 'pkd')
        config.dump(next(folder.glob('*/vis_data/config.py')))
        torch.save(dict(state_dict=model.state_dict()), folder / 'epoch_2.pth')
        (folder / 'last_checkpoint').write_text(f'/elsewhere/{name}/epoch_2.pth')
    return tmp_path


def found(coco, right):
    """Results that find the first objects of every image, as many as are said."""
    results = []
    for image in coco['images']:
        own = [a for a in coco['annotations'] if a['image_id'] == image['id']]
        results += [{**{k: a[k] for k in ('image_id', 'category_id', 'bbox')}, 'score': 0.9}
                    for a in own[:right]]  # fmt: skip
    return results


def test_the_page_has_the_picture_and_how_it_was_chosen(runs, shapes, monkeypatch):
    coco = json.loads((shapes / 'annotations/val.json').read_text())
    right = dict(alone=1, pkd=2, teacher=9)
    asked = []

    def pretended(cfg, config, checkpoint, trust):
        name = next(name for name in right if f'/{name}' in checkpoint)
        asked.append(name)
        return found(coco, right[name])

    monkeypatch.setattr(pictures, 'boxes_of', pretended)
    out = write_report(
        [runs / 'pkd'], baseline=[runs / 'alone'], pictures=2, out=runs / 'page.html'
    )
    page = out.read_text()
    assert asked == ['alone', 'pkd', 'teacher']
    assert page.count('src="data:image/png;base64,') == 1
    assert 'shown are 2 of the first' in ' '.join(page.split())
    assert 'student alone on 0' in page


def test_boxes_are_those_that_the_evaluator_has_judged(runs):
    cfg = Config.fromfile(next((runs / 'alone').glob('*/vis_data/config.py')))
    boxes = boxes_of(cfg, str(runs / 'teacher.py'), str(runs / 'teacher.pth'))
    assert boxes
    assert boxes[0].keys() == {'image_id', 'bbox', 'score', 'category_id'}
    assert len({box['image_id'] for box in boxes}) <= 4


def trainings(*folders):
    some = [read_training(folder) for folder in folders]
    name_arms(some, [])
    return some


def test_a_pair_has_one_seed(tmp_path):
    some = trainings(*(logs.trained(tmp_path / f'{name}{seed}', 0.4, distilled=name == 'dpk', seed=seed)
                       for name in ('dpk', 'alone') for seed in (3, 4)))  # fmt: skip
    some.reverse()
    alone, distilled = pair_of(some, numbers_of(some, {}))
    assert (alone.arm, distilled.arm) == ('alone', 'dpk')
    assert alone.seed == distilled.seed


def test_without_a_baseline_there_is_nothing_to_compare(tmp_path):
    some = trainings(logs.trained(tmp_path / 'dpk', 0.4))
    with pytest.raises(
        InputError, match='--pictures: needs a training that distils and one of the'
    ):
        pair_of(some, numbers_of(some, {}))


def test_what_is_missing_is_named(runs):
    (runs / 'alone/last_checkpoint').unlink()
    with pytest.raises(InputError, match=f'--pictures: {runs}/alone: no checkpoint is there'):
        write_report([runs / 'pkd'], baseline=[runs / 'alone'], pictures=2)
    config = next((runs / 'pkd').glob('*/vis_data/config.py'))
    config.write_text(config.read_text().replace('CocoMetric', 'VOCMetric'))
    with pytest.raises(
        InputError, match=r"--pictures: val_evaluator.type='VOCMetric'; pictures are of"
    ):
        write_report([runs / 'pkd'], baseline=[runs / 'alone'], pictures=2)


def test_a_teacher_that_is_no_file_is_left_out(runs):
    spec = dict(config=str(runs / 'teacher.py'), checkpoint=str(runs / 'teacher.pth'))
    assert teacher_of(dict(model=dict(teacher=spec))) == (spec['config'], spec['checkpoint'])
    assert teacher_of(dict(model=dict(teacher=dict(spec, checkpoint=None)))) is None
    assert teacher_of(dict(model=dict(teacher=dict(a=spec, b=spec)))) is None
