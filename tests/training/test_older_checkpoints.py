"""A training that was started by mmkd 0.1, before its modules moved into rooms, goes on with this one.

``tests/data/older`` holds what that version wrote: a teacher, a checkpoint of iteration 6 of 12 (one thread,
seed 3, torch 2.13 on a CPU) and the student's weights at the end of the training that was not stopped.
"""

from pathlib import Path

import helpers as h
import torch
from resumable import config, run

from mmkd.files.checkpoints import read_checkpoint
from mmkd.methods import DPK

DATA = Path(__file__).parents[1] / 'data/older'
SIZE = [dict(encoder=(8, 1, 2), decoder=(8, 1, 2))]


def distillation(shapes):
    cfg = config(
        shapes,
        model=h.classifier(width=2),
        **{'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 3},
    )
    methods = dict(
        dpk=dict(
            type='mmkd.DPK',
            tap='backbone.layer3',
            size=SIZE,
            optimizer=dict(lr=1e-3),
        ),
        kd=dict(type='mmkd.KD'),
    )
    teacher = dict(config=h.classifier(width=2), checkpoint=str(DATA / 'teacher.pth'))
    cfg.model = dict(type='mmkd.Distiller', student=cfg.model, methods=methods, teacher=teacher)
    cfg.model.student.backbone.drop_path_rate = 0.3
    cfg.custom_hooks.append(dict(type='mmkd.DistillationHook'))
    return cfg


def test_it_ends_as_it_would_have_without_the_change(shapes, tmp_path, monkeypatch):
    # its head has four classes, as many as the images that it sees, and the data six
    monkeypatch.setattr('mmkd.training.data_faults.refuse_few_classes', lambda *_: None)
    plan = DPK.plan
    monkeypatch.setattr(  # the default was 1 then
        DPK, 'plan', lambda self, *models: setattr(self, 'temperature', 1.0) or plan(self, *models)
    )
    torch.set_num_threads(1)
    runner = run(distillation(shapes), tmp_path, resume=str(DATA / 'iter_6.pth'))
    assert runner.iter == 12
    before = torch.load(DATA / 'final.pth', weights_only=True)
    start = read_checkpoint(DATA / 'iter_6.pth')['state_dict']
    after = runner.model.state_dict()
    assert after.keys() == before.keys()
    moved = max(float((before[name] - start[name]).abs().max()) for name in before)
    apart = max(float((before[name] - after[name]).abs().max()) for name in before)
    assert apart < 1e-5 < 1e-2 < moved
