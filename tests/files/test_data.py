"""Data sets whose files are missing or damaged are answered before anything is built."""

import json
import os

import helpers as h
import pytest

import mmkd.files.data
import mmkd.training.data_faults
from mmkd.commands.train import train, training_config

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
