"""Labels of a teacher: they are what it predicts, and a stopped run goes on."""

import json
import shutil
from pathlib import Path

import helpers as h
import pytest
import torch
from mmengine.config import Config
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmkd import InputError
from mmkd.commands import label as module
from mmkd.commands.label import exact, label
from mmkd.commands.test import evaluate, evaluation_config
from mmkd.datasets import CLASSES
from mmkd.family.building import build_model, model_config

DEMO = h.ROOT / 'configs/demo'


@pytest.fixture
def teacher(shapes):
    """The demonstration's trained teacher on the small data set."""
    cfg = Config.fromfile(DEMO / 'teacher.py')
    for part in ('train', 'val', 'test'):
        cfg[f'{part}_dataloader'].dataset.data_root = f'{shapes}/'
        cfg[f'{part}_dataloader'].update(num_workers=0, persistent_workers=False)
    cfg.test_evaluator.ann_file = f'{shapes}/annotations/val.json'
    cfg.visualizer = dict(type='Visualizer', vis_backends=[])
    return cfg


def labelled(cfg, shapes, out, **options):
    images, root = shapes / 'annotations/val.json', shapes / 'images/val'
    return label(cfg, DEMO / 'teacher.pth', images, out, root=root, workers=0, **options)


def test_the_labels_have_the_ap_of_the_test(teacher, shapes, tmp_path):
    out = labelled(teacher, shapes, tmp_path / 'pseudo.json', score_thr=0.0)
    content = json.loads(out.read_text())
    truth = COCO(shapes / 'annotations/val.json')
    scores = COCOeval(truth, truth.loadRes(content['annotations']), 'bbox')
    scores.evaluate()
    scores.accumulate()
    scores.summarize()
    cfg = evaluation_config(teacher, str(DEMO / 'teacher.pth'), work_dir=str(tmp_path / 'test'))
    expected = evaluate(cfg)['coco/bbox_mAP']
    assert expected > 0.2
    assert scores.stats[0] == pytest.approx(expected, abs=5e-4)  # mmdet rounds to three digits
    assert [c['name'] for c in content['categories']] == list(CLASSES)
    assert [i['id'] for i in content['images']] == truth.getImgIds()
    assert len({a['id'] for a in content['annotations']}) == len(content['annotations'])
    read = COCO(out)
    assert (
        read.loadImgs(read.getImgIds())[0]['width'] == truth.loadImgs(read.getImgIds())[0]['width']
    )


def test_boxes_below_the_threshold_are_left_out(teacher, shapes, tmp_path):
    every = labelled(teacher, shapes, tmp_path / 'all.json', score_thr=0.0)
    sure = labelled(teacher, shapes, tmp_path / 'sure.json')
    found = [json.loads(path.read_text())['annotations'] for path in (every, sure)]
    kept = [a['bbox'] for a in found[0] if a['score'] >= 0.3]
    assert 0 < len(kept) < len(found[0])
    assert [a['bbox'] for a in found[1]] == kept


def test_a_stopped_run_goes_on_and_ends_alike(teacher, shapes, tmp_path, monkeypatch):
    cfg = teacher
    cfg.test_dataloader.batch_size = 1
    whole = labelled(cfg, shapes, tmp_path / 'whole.json').read_text()
    monkeypatch.setattr(module, 'AT_ONCE', 1)
    entry, seen = module.Labeller.entry, []

    def stopping(self, image, sample):
        seen.append(image.name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return entry(self, image, sample)

    monkeypatch.setattr(module.Labeller, 'entry', stopping)
    with pytest.raises(KeyboardInterrupt):
        labelled(cfg, shapes, tmp_path / 'again.json')
    part = tmp_path / 'again.json.part'
    assert len(part.read_text().splitlines()) == 3
    part.write_text(part.read_text() + '{"id": 3, "ima')  # cut off by the kill
    assert labelled(cfg, shapes, tmp_path / 'again.json').read_text() == whole
    assert len(seen) == 3 + 2
    assert not part.exists()


def test_a_run_with_other_options_does_not_go_on(teacher, shapes, tmp_path):
    (tmp_path / 'x.json.part').write_text('{"score_thr": 0.7}\n')
    with pytest.raises(
        InputError, match=r'x\.json\.part is of another run \(.*score_thr: 0\.7, now'
    ):
        labelled(teacher, shapes, tmp_path / 'x.json')


def test_an_image_that_is_none_is_left_out_and_said(teacher, shapes, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(shapes / 'images/val', tmp_path / 'images'))
    names = sorted(path.name for path in folder.iterdir())
    (folder / names[1]).write_bytes(b'no image')
    said = []
    monkeypatch.setattr(module, 'print_log', lambda text, *rest: said.append(text))
    out = label(teacher, DEMO / 'teacher.pth', folder, tmp_path / 'o.json', workers=0)
    content = json.loads(out.read_text())
    assert [i['file_name'] for i in content['images']] == [names[0], *names[2:]]
    assert len(said) == 2
    assert f'image {folder / names[1]}: left out: ' in said[0]
    assert said[1] == f'1 of {len(names)} images could not be read'
    for name in names:
        (folder / name).write_bytes(b'no image')
    with pytest.raises(InputError, match=f'none of the {len(names)} could be read'):
        label(teacher, DEMO / 'teacher.pth', folder, tmp_path / 'p.json', workers=0)


def test_masks_are_written_as_runs(shapes, tmp_path):
    cfg = h.runner_config('mask_rcnn', tmp_path, shapes)
    cfg.model.roi_head.mask_head.num_classes = len(CLASSES)
    cfg.model.test_cfg.rcnn.mask_thr_binary = 0.5
    model = h.build(model_config(cfg))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'c.pth')
    out = label(
        cfg, tmp_path / 'c.pth', shapes / 'images/val', tmp_path / 'o.json', score_thr=0, workers=0
    )
    read = COCO(out)
    annotations = read.loadAnns(read.getAnnIds())
    assert annotations
    for annotation in annotations:
        image = read.loadImgs(annotation['image_id'])[0]
        mask = read.annToMask(annotation)
        assert mask.shape == (image['height'], image['width'])
        assert mask.sum() == annotation['area']


def test_a_classifier_writes_soft_labels_that_mmpretrain_trains_on(shapes, tmp_path):
    cfg = h.runner_config('classifier', tmp_path, shapes)
    cfg.test_dataloader.dataset.metainfo = dict(classes=CLASSES)
    model = h.build(model_config(cfg)).eval()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'c.pth')
    folder = shapes / 'images/val'
    out = label(cfg, tmp_path / 'c.pth', folder, tmp_path / 'o.json', score_thr=0, workers=0)
    content = json.loads(out.read_text())
    assert content['metainfo']['classes'] == list(CLASSES)
    assert len(content['data_list']) == len(list(folder.iterdir()))
    first = content['data_list'][0]
    assert sum(first['gt_score']) == pytest.approx(1, abs=1e-5)
    assert first['gt_score'][first['gt_label']] == max(first['gt_score'])
    from mmpretrain.registry import DATASETS

    data = DATASETS.build(
        dict(
            type='BaseDataset', ann_file=str(out), data_prefix=str(folder),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32)),
                      dict(type='PackInputs')],
        )
    )  # fmt: skip
    batch = dict(inputs=[data[0]['inputs']], data_samples=[data[0]['data_samples']])
    loss = model(**model.data_preprocessor(batch, True), mode='loss')['loss']
    with torch.no_grad():
        chance = model(model.data_preprocessor(batch, True)['inputs']).log_softmax(1)[0]
    expected = -(torch.tensor(first['gt_score']) * chance).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_what_cannot_be_labelled_is_said(teacher, shapes, tmp_path):
    weights, out = DEMO / 'teacher.pth', tmp_path / 'o.json'
    with pytest.raises(InputError, match=r'IMAGES nowhere: does not exist'):
        label(teacher, weights, 'nowhere', out)
    with pytest.raises(InputError, match=r'--score-thr 3: needed: a number from 0 to 1'):
        label(teacher, weights, shapes / 'images/val', out, score_thr=3)
    out.write_text('')
    with pytest.raises(InputError, match=r'o\.json: exists'):
        label(teacher, weights, shapes / 'images/val', out)
    teacher.test_dataloader.dataset.metainfo = dict(classes=('a', 'b'))
    with pytest.raises(InputError, match=r'2 names for the 6 classes of GFL.*metainfo'):
        label(teacher, weights, shapes / 'images/val', out)
    cfg = Config(dict(model=h.segmentor(), test_dataloader=teacher.test_dataloader))
    torch.save(dict(state_dict=build_model(cfg.model).state_dict()), tmp_path / 's.pth')
    with pytest.raises(InputError, match=r'EncoderDecoder is neither a detector nor a classifier'):
        label(cfg, tmp_path / 's.pth', shapes / 'images/val', out)


def test_a_number_is_written_in_the_digits_that_tell_it():
    assert exact(torch.tensor(1 / 3)) == 0.33333334
