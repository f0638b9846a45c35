import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmkd import InputError
from mmkd.datasets import CLASSES, ShapesSpec, make_shapes
from mmkd.datasets.shapes import LEAST_VISIBLE, draw

SPEC = ShapesSpec(train=6, val=3, smallest=96, largest=128)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('s') / 'shapes', SPEC, quiet=True)


def test_the_same_seed_draws_the_same_and_another_does_not(root, tmp_path):
    twin = make_shapes(tmp_path / 'twin', SPEC, quiet=True)
    other = make_shapes(tmp_path / 'other', ShapesSpec(**{**vars(SPEC), 'seed': 1}), quiet=True)
    files = sorted(p.relative_to(root) for p in root.rglob('*.*') if p.name != 'shapes.json')
    assert len(files) > 20
    assert all((root / f).read_bytes() == (twin / f).read_bytes() for f in files)
    first = 'images/train/000000.jpg'
    assert (root / first).read_bytes() != (other / first).read_bytes()


def test_an_image_depends_on_seed_and_index_alone():
    few, many = ShapesSpec(train=2), ShapesSpec(train=1000)
    assert np.array_equal(draw(few, 'train', 1).image, draw(many, 'train', 1).image)
    assert not np.array_equal(
        draw(few, 'train', 1).image[:9, :9], draw(few, 'val', 1).image[:9, :9]
    )


def test_a_drawn_folder_is_kept_and_another_spec_redraws(tmp_path):
    root = make_shapes(tmp_path, ShapesSpec(train=1, val=1), quiet=True)
    stamp = (root / 'annotations/train.json').stat().st_mtime_ns
    make_shapes(root, ShapesSpec(train=1, val=1), quiet=True)
    assert (root / 'annotations/train.json').stat().st_mtime_ns == stamp
    make_shapes(root, ShapesSpec(train=2, val=1), quiet=True)
    assert len(json.loads((root / 'annotations/train.json').read_text())['images']) == 2


def test_an_interrupted_drawing_is_begun_again(tmp_path):
    root = make_shapes(tmp_path, ShapesSpec(train=1, val=1), quiet=True)
    (root / 'shapes.json').unlink()
    (root / 'annotations/val.json').unlink()
    make_shapes(root, ShapesSpec(train=1, val=1), quiet=True)
    assert (root / 'annotations/val.json').is_file()


def test_annotations_agree_with_masks_and_images(root):
    coco = COCO(root / 'annotations/train.json')
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    for info in coco.loadImgs(coco.getImgIds()):
        image = cv2.imread(str(root / 'images/train' / info['file_name']))
        assert image.shape[:2] == (info['height'], info['width'])
        assert SPEC.smallest <= min(image.shape[:2]) <= max(image.shape[:2]) <= SPEC.largest
        drawing = draw(SPEC, 'train', info['id'] - 1)
        entries = coco.loadAnns(coco.getAnnIds(info['id']))
        assert len(entries) == len(drawing.masks) > 0
        for entry, mask, label in zip(entries, drawing.masks, drawing.labels):
            assert np.array_equal(coco.annToMask(entry).astype(bool), mask)
            rows, columns = np.where(mask)
            x, y, w, h = entry['bbox']
            assert (x, y) == (columns.min(), rows.min())
            assert (w, h) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
            assert (entry['area'], entry['category_id']) == (mask.sum(), label + 1)
        path = root / 'maps/train' / info['file_name'].replace('.jpg', '.png')
        stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(stored, drawing.class_map())


def test_crops_are_one_for_each_shape(root):
    coco = COCO(root / 'annotations/val.json')
    for index, name in enumerate(CLASSES):
        crops = list((root / 'classes/val' / name).glob('*.jpg'))
        assert len(crops) == len(coco.getAnnIds(catIds=[index + 1]))
        assert all(cv2.imread(str(crop)).shape == (64, 64, 3) for crop in crops)


def test_shapes_overlap_but_stay_visible():
    covered = 0
    for index in range(40):
        masks = draw(ShapesSpec(), 'train', index).masks
        assert sum(m.astype(int) for m in masks).max() == 1
        boxes = [[f(np.where(m)[a]) for f in (np.min, np.max) for a in (1, 0)] for m in masks]
        covered += sum(
            a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
            for i, a in enumerate(boxes)
            for b in boxes[:i]
        )
        assert all(m.sum() >= 40 * LEAST_VISIBLE for m in masks)
    assert covered > 10


def test_every_class_occurs():
    labels = {label for index in range(30) for label in draw(ShapesSpec(), 'train', index).labels}
    assert labels == set(range(len(CLASSES)))
    assert len(CLASSES) >= 6


@pytest.mark.parametrize('radius', [10, 25])
def test_shapes_have_the_radius_of_the_spec(radius):
    spec = ShapesSpec(smallest=100, largest=100, objects=2, small=radius, large=radius)
    masks = [mask for index in range(20) for mask in draw(spec, 'train', index).masks]
    extents = [max(np.ptp(places) + 1 for places in np.where(mask)) for mask in masks]
    assert 1.9 * radius < max(extents) <= 2 * radius + 2


@pytest.mark.parametrize(('wrong', 'least'), [(dict(small=0), 1), (dict(small=9, large=8), 9)])
def test_radii_that_cannot_be_drawn_are_named(wrong, least):
    name, value = list(wrong.items())[-1]
    with pytest.raises(
        InputError, match=f'{name}={value}; needed: a whole number, {least} or more'
    ):
        ShapesSpec(**wrong)
