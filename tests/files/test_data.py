"""Data sets whose files are missing or damaged are answered before anything is built."""

import json
import os

import helpers as h
import pytest

import mmkd.files.data
import mmkd.training.data_faults
from mmkd.commands.train import train, training_config
from mmkd.files.data import COMPARED, READ

TRAIN, TXT = 'annotations/train.json', 'train.txt'


def write(path, **changes):
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda path: path.write_text('hello'), ['is no JSON, or cut off (5 bytes', 'again']),
        (lambda path: os.truncate(path, 3000), ['is no JSON, or cut off (3000 bytes']),
        (lambda path: path.write_bytes(b''), ['is no JSON, or cut off (0 bytes']),
        (lambda path: path.write_text('[]'), ["'images' is missing", 'there: a list']),
        (lambda path: write(path, images=None), ["'images' is missing", 'there: info, ann']),
        (lambda path: write(path, annotations=None), ["'annotations' is missing"]),
        (lambda path: write(path, categories=None), ["'categories' is missing"]),
        (lambda path: write(path, images=[]), ['lists no images']),
        (lambda path: write(path, categories=[dict(id=1, name='dog')]),
         ["none of the classes ('circle', ", "('dog')", 'metainfo=dict(classes']),
    ],
    ids=['text', 'cut', 'empty', 'list', 'images', 'annotations', 'categories', 'none', 'classes'],
)  # fmt: skip
def test_an_annotation_file_that_is_wrong_is_named_before_anything_is_built(change, words, data):
    change(data / TRAIN)
    text = h.message_of(training_config, h.detection(data))
    assert text.startswith('train_dataloader.dataset.ann_file: ')
    assert all(word in text for word in [str(data / TRAIN), *words])


def entry(part, drop=None, **changes):
    """A change of the second entry of a list."""

    def change(path):
        content = json.loads(path.read_text())
        content[part][1].update(changes)
        content[part][1].pop(drop, None)
        path.write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ('part', 'key'), [(part, key) for part, keys in READ.items() for key in keys]
)
def test_an_entry_without_what_is_read_is_named(part, key, data):
    entry(part, key)(data / TRAIN)
    text = h.message_of(training_config, h.detection(data))
    assert text.startswith(
        f'train_dataloader.dataset.ann_file: {data / TRAIN}: {part}[1] has no {key!r}'
    )


@pytest.mark.parametrize(
    ('part', 'change', 'words'),
    [
        ('images', dict(width='wide'), "images[1]: width='wide'; needed: a number"),
        ('annotations', dict(area=None), 'annotations[1]: area=None'),
        ('annotations', dict(bbox=[1, 1, 5]), 'annotations[1]: bbox=[1, 1, 5]; needed: left, top'),
        ('annotations', dict(bbox='1 1 5 5'), "bbox='1 1 5 5'"),
    ],
)
def test_an_entry_that_is_no_number_is_named(part, change, words, data):
    entry(part, **change)(data / TRAIN)
    assert words in h.message_of(training_config, h.detection(data))


def test_classes_without_their_comma_are_named(data):
    cfg = h.detection(data)
    cfg.train_dataloader.dataset.metainfo.classes = 'circle'
    text = h.message_of(training_config, cfg)
    assert text.startswith("train_dataloader.dataset.metainfo.classes='circle'")
    assert "('circle',)" in text


@pytest.mark.parametrize('key', COMPARED['annotations'])
def test_an_entry_without_what_is_compared_is_named(key, data):
    entry('annotations', key)(data / 'annotations/val.json')
    cfg = h.detection(data)
    cfg.val_dataloader.dataset.ann_file = TRAIN
    cfg.val_dataloader.dataset.data_prefix = dict(img='images/train/')
    text = h.message_of(training_config, cfg)
    assert text.startswith(
        f'val_evaluator.ann_file: {data / "annotations/val.json"}: annotations[1]'
    )
    assert f'has no {key!r}' in text


def test_images_that_share_an_id_are_named(data):
    entry('images', id=1)(data / TRAIN)
    text = h.message_of(training_config, h.detection(data))
    assert '1 ids stand for several images each: (1) (the first for (' in text


NAN = float('nan')


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(bbox=[1, 1, -5, 5]), 'have no box with an extent in its image'),
        (dict(bbox=[1, 1, NAN, 5]), 'have no box'),
        (dict(bbox=[900, 1, 5, 5]), 'have no box'),
        (dict(image_id=777), 'are of images that are not listed'),
        (dict(category_id=777), 'are of categories that are not listed'),
    ],
)
def test_annotations_that_are_left_out_are_counted(change, words, data, monkeypatch):
    said = []
    monkeypatch.setattr(mmkd.files.data, 'print_log', lambda text, *args: said.append(text))
    cfg = h.detection(data)
    training_config(cfg)
    assert said == []
    entry('annotations', **change)(data / TRAIN)
    number = json.loads((data / TRAIN).read_text())['annotations'][1]['id']
    training_config(cfg)
    (line,) = said
    assert line.startswith(
        f'train_dataloader.dataset.ann_file: {data / TRAIN}: 1 annotations {words}'
    )
    assert f'(ids ({number}))' in line


def test_a_test_set_without_annotations_is_one_but_not_to_compare_with(data):
    write(data / 'annotations/val.json', annotations=None)
    text = h.message_of(training_config, h.detection(data))
    assert text.startswith('val_evaluator.ann_file: ')
    cfg = h.detection(data)
    cfg.val_evaluator.format_only = True
    assert training_config(cfg).val_evaluator.format_only


def test_a_large_annotation_file_is_looked_at_where_training_fails(data, monkeypatch):
    monkeypatch.setattr(mmkd.files.data, 'SMALL', 10)
    monkeypatch.setattr(mmkd.training.data_faults, 'SMALL', 10)
    os.truncate(data / TRAIN, 3000)
    cfg = training_config(h.detection(data))
    assert f'{data / TRAIN} is no JSON, or cut off' in h.message_of(train, cfg)


def listed(data, *lines):
    root = data / 'classes/train'
    images = sorted(path.relative_to(root) for path in root.glob('*/*'))
    text = [f'{path} {number % 6}' for number, path in enumerate(images)]
    (data / TXT).write_text('\n'.join([*text[:4], *lines, *text[4:]]) + '\n')
    cfg = h.runner_config('classifier', data.parent / 'work', data)
    cfg.train_dataloader.dataset.ann_file = TXT
    return cfg


@pytest.mark.parametrize('line', ['', 'star/1.png', 'star/1.png star', '-1'])
def test_a_line_of_a_list_of_images_that_is_wrong_is_named(line, data):
    assert training_config(listed(data))
    text = h.message_of(training_config, listed(data, line))
    assert text.startswith(f'train_dataloader.dataset.ann_file: {data / TXT}, line 5 is {line!r}; ')
