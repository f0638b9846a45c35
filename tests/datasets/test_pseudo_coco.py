"""Boxes with scores as a data set: alone, beside real labels, and where images are mixed."""

import json

import helpers as h
import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.registry import DefaultScope

from mmkd import InputError
from mmkd.datasets.scores import unpack_scores

STEPS = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=1.0),
    dict(type='Resize', scale=(64, 64)),
]
PACK = dict(type='PackDetInputs', meta_keys=('img_id', 'img_shape'))


@pytest.fixture
def pseudo(shapes, tmp_path):
    """The training labels with scores .5, .6, ... in each image."""
    content = json.loads((shapes / 'annotations/train.json').read_text())
    counts = {}
    for annotation in content['annotations']:
        counts[annotation['image_id']] = counts.get(annotation['image_id'], 4) + 1
        annotation['score'] = counts[annotation['image_id']] / 10
    (tmp_path / 'pseudo.json').write_text(json.dumps(content))
    return tmp_path / 'pseudo.json'


def config(shapes, file, kind='mmkd.PseudoCoco', **options):
    real = h.runner_config('retinanet', 'work', shapes).train_dataloader.dataset
    return dict(
        type=kind, ann_file=str(file), data_prefix=dict(img=str(shapes / 'images/train')),
        metainfo=real.metainfo, pipeline=[*STEPS, PACK], **options,
    )  # fmt: skip


def built(*args, **options):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DATASETS.build(config(*args, **options))


def test_samples_have_scores_and_plain_labels(shapes, pseudo):
    plain, scored = built(shapes, pseudo, 'CocoDataset'), built(shapes, pseudo)
    assert scored.metainfo == plain.metainfo
    for index in range(len(plain)):
        real, ours = (d[index]['data_samples'].gt_instances for d in (plain, scored))
        torch.testing.assert_close(ours.bboxes.tensor, real.bboxes.tensor)
        assert ours.labels.tolist() == real.labels.tolist()
        expected = [0.5 + i / 10 for i in range(len(real))]
        assert ours.scores.tolist() == pytest.approx(expected, abs=1e-6)
        assert scored.get_cat_ids(index) == plain.get_cat_ids(index)


def test_boxes_below_the_threshold_are_left_out_and_scores_can_be(shapes, pseudo):
    plain = built(shapes, pseudo, weight_by_score=False)
    most = max(range(len(plain)), key=lambda i: len(plain[i]['data_samples'].gt_instances))
    sure = built(shapes, pseudo, score_thr=0.6)[most]['data_samples'].gt_instances
    every = plain[most]['data_samples'].gt_instances
    assert sure.scores.min() >= 0.6 - 1e-6
    assert 'scores' not in every
    assert len(every) == len(sure) + 1
    with pytest.raises(InputError, match='score_thr=7; needed: a number from 0 to 1'):
        built(shapes, pseudo, score_thr=7)


def test_it_stands_beside_real_labels_and_in_mixed_images(shapes, pseudo):
    real = config(shapes, shapes / 'annotations/train.json', 'CocoDataset')
    both = dict(type='ConcatDataset', datasets=[real, config(shapes, pseudo)])
    with DefaultScope.overwrite_default_scope('mmdet'):
        joined = DATASETS.build(both)
    count = len(joined) // 2
    assert 'scores' not in joined[0]['data_samples'].gt_instances
    assert 'scores' in joined[count]['data_samples'].gt_instances
    assert isinstance(joined.metainfo, dict)
    inner = dict(config(shapes, pseudo), pipeline=STEPS[:2])
    mosaic = dict(type='Mosaic', img_scale=(64, 64), center_ratio_range=(1.0, 1.0))
    mixed = dict(type='MultiImageMixDataset', dataset=inner, pipeline=[mosaic, PACK])
    with DefaultScope.overwrite_default_scope('mmdet'):
        sample = DATASETS.build(mixed)[0]['data_samples']
    assert sample.gt_instances.labels.max() > 1000
    unpack_scores(sample)
    assert sample.gt_instances.labels.max() < 6
    found = {round(score, 1) for score in sample.gt_instances.scores.tolist()}
    assert found <= {0.5, 0.6, 0.7, 0.8, 0.9, 1.0}
    assert len(found) > 1


def test_categories_may_stand_in_another_order_and_none_may_be_absent(shapes, pseudo):
    content = json.loads(pseudo.read_text())
    right = built(shapes, pseudo)[0]['data_samples'].gt_instances.labels
    content['categories'].reverse()
    pseudo.write_text(json.dumps(content))
    assert built(shapes, pseudo)[0]['data_samples'].gt_instances.labels.equal(right)
    content['categories'] = [c for c in content['categories'] if c['name'] != 'star']
    pseudo.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"no category 'star', which is among metainfo\.classes"):
        built(shapes, pseudo)
