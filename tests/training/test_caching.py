"""A teacher's cache in whole trainings, and the data for which it is refused."""

import copy
import re

import helpers as h
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from rank_work import on_ranks, several
from rank_work import run as run_on_one
from resumable import INSIDE, Killer, config, run, same

from mmkd import InputError, Teacher, distill
from mmkd.training.caching import parts_of, random_transform

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=False),
    dict(type='PackDetInputs'),
]


def detection(shapes, cache=None, pipeline=PIPELINE, **changes):
    methods = dict(pkd=dict(type='mmkd.PKD'), kd=dict(type='mmkd.KD'))
    cfg = config(shapes, 'retinanet', methods, **changes)
    cfg.train_dataloader.dataset.pipeline = copy.deepcopy(pipeline)
    if cache is not None:
        cfg.model.teacher.cache = str(cache)
    return cfg


@pytest.fixture
def ran(monkeypatch):
    found, answer = [], Teacher._answer

    def noted(*args):
        found.append(args[0])
        return answer(*args)

    monkeypatch.setattr(Teacher, '_answer', noted)
    return found


def test_training_with_a_cache_that_is_damaged_killed_and_resumed_is_training_without(
    shapes, tmp_path, ran
):
    straight = run(detection(shapes, **INSIDE), tmp_path / 'straight')
    live = len(ran)
    cached = detection(shapes, tmp_path / 'cache', **INSIDE)
    ran.clear()
    assert run(cached, tmp_path / 'cached', None, Killer(7)) is None
    files = sorted(path for path in (tmp_path / 'cache').rglob('*') if path.is_file())
    assert len(files) == 8
    files[3].write_bytes(files[3].read_bytes()[:-5])
    resumed = run(cached, tmp_path / 'cached', 'auto')
    assert resumed.iter == straight.iter == 12
    same(straight, resumed)
    assert (
        len(ran) < live
    )  # 12 iterations, of which 4 + 1 and 1 + 1 run the teacher, a damaged file one


def test_ranks_train_with_one_cache_as_without(shapes, tmp_path):
    (tmp_path / 'ranks').mkdir()
    jobs = []
    for cache in (None, tmp_path / 'cache'):
        cfg = detection(shapes, cache)
        cfg.work_dir, cfg.train_cfg.max_epochs = str(tmp_path / f'work{cache is None}'), 2
        cfg.train_dataloader.batch_size = 4
        cfg.model.student.backbone.norm_eval = True
        jobs.append((run_on_one, cfg))
    for live, cached in on_ranks(several, tmp_path / 'ranks', jobs):
        assert all(torch.equal(value, cached['weights'][k]) for k, value in live['weights'].items())
    assert not [*(tmp_path / 'cache').rglob('*.part')]
    assert len([path for path in (tmp_path / 'cache').rglob('*') if path.is_file()]) == 8


def refusal(shapes, tmp_path, pipeline=PIPELINE, edit=lambda cfg: None, **changes):
    cfg = detection(shapes, tmp_path / 'cache', pipeline, **changes)
    edit(cfg)
    with pytest.raises(InputError) as error:
        run(cfg, tmp_path / 'work')
    assert not [*tmp_path.glob('cache/*')]
    return str(error.value)


@TRANSFORMS.register_module(force=True)
class Secretive(BaseTransform):
    """Draws without any sign of it."""

    def transform(self, results):
        results['img'] = results['img'] + np.random.randint(0, 9, dtype=np.uint8)
        return results


@TRANSFORMS.register_module(force=True)
class Sometimes(BaseTransform):
    """Draws, and says with which probability."""

    def __init__(self, prob):
        self.prob = prob

    def transform(self, results):
        return results


FLIP = dict(type='RandomFlip', prob=0.5)


@pytest.mark.parametrize(
    ('transform', 'message'),
    [
        (FLIP, 'RandomFlip of the train_dataloader is random (prob=0.5)'),
        (dict(type='Sometimes', prob=0.2), 'Sometimes of the train_dataloader is random (prob=0.2)'),
        (dict(type='PhotoMetricDistortion'), 'PhotoMetricDistortion of the train_dataloader is random'),
        (dict(type='RandomCrop', crop_size=(32, 32)), 'RandomCrop of the train_dataloader is random'),
        (
            dict(type='RandomChoice', transforms=[[dict(type='Resize', scale=(64, 64))]] * 2),
            'RandomChoice of the train_dataloader is random',
        ),
        (
            dict(type='RandomApply', transforms=[FLIP], prob=0),
            'RandomFlip of the train_dataloader is random (prob=0.5)',
        ),
        (
            dict(type='Secretive'),
            'image 0 of the train_dataloader is another each time it is read: one of CocoDataset, Compose, '
            'LoadImageFromFile, LoadAnnotations, Resize, Secretive, PackDetInputs is random',
        ),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)  # fmt: skip
def test_random_transforms_are_refused_by_name(shapes, tmp_path, transform, message):
    text = refusal(shapes, tmp_path, [*PIPELINE[:-1], transform, PIPELINE[-1]])
    assert text.startswith(f'the teacher: cache: {message}')
    assert text.endswith('leave it out of the config, or leave cache out')


@pytest.mark.parametrize('kind', ['Mosaic', 'MixUp'])
def test_mixed_images_are_refused(shapes, tmp_path, kind):
    def mix(cfg):
        inner = cfg.train_dataloader.dataset
        last = inner.pipeline[2:]
        inner.pipeline = inner.pipeline[:2]
        mixing = dict(type=kind, img_scale=(64, 64))
        cfg.train_dataloader.dataset = dict(
            type='MultiImageMixDataset', dataset=inner, pipeline=[mixing, *last]
        )

    text = refusal(shapes, tmp_path, edit=mix)
    assert 'of the train_dataloader is random' in text


def test_random_augmentations_of_batches_are_refused(shapes, tmp_path):
    def augment(cfg):
        augmentation = dict(type='BatchSyncRandomResize', random_size_range=(64, 96), interval=1)
        cfg.model.student.data_preprocessor.batch_augments = [augmentation]

    text = refusal(shapes, tmp_path, edit=augment)
    assert 'BatchSyncRandomResize of the data_preprocessor changes batches at random' in text


def test_images_of_several_sizes_are_refused_unless_they_are_padded_to_one(shapes, tmp_path):
    kept = dict(type='Resize', scale=(96, 64), keep_ratio=True)
    several = [*PIPELINE[:2], kept, PIPELINE[-1]]
    text = refusal(shapes, tmp_path, several)
    assert re.search(r'images have several sizes \(\d+x\d+, .*; give them one size \(Resize', text)

    def pad(cfg):
        cfg.train_cfg.max_epochs = 1
        cfg.model.student.data_preprocessor.batch_augments = [
            dict(type='BatchFixedSizePad', size=(96, 96))
        ]

    cfg = detection(shapes, tmp_path / 'cache', several)
    pad(cfg)
    assert run(cfg, tmp_path / 'work').iter == 4


def test_a_flip_that_never_happens_is_none():
    class Data:
        pipeline = [TRANSFORMS.build(dict(FLIP, prob=0.0))]

    assert random_transform(Data()) is None
    assert [type(part).__name__ for part in parts_of([Data()])] == ['Data', 'RandomFlip']


def test_a_flag_gives_a_teacher_a_cache(shapes, tmp_path):
    cfg = distill(
        h.detection(shapes), 'pkd', 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
        'untrained', dict(teacher=dict(cache=str(tmp_path))),
    )  # fmt: skip
    assert cfg.model.teacher.cache == str(tmp_path)
