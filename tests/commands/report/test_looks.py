"""What networks show stands on the page, and what cannot be had is said in a line."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest
import report_logs as logs

from mmkd.commands.report import looks, write_report
from mmkd.commands.report.looks import ALIGNMENT, CLASSES, CONFUSION, MAPS, PICTURES
from mmkd.commands.report.tallies import Tally
from mmkd.datasets import CLASSES as SHAPES


def page_of(runs, **options):
    folders = [runs / 'distilled'], [runs / 'alone']
    out = write_report(folders[0], baseline=folders[1], out=runs / 'page.html', **options)
    return out.read_text()


def headings(page):
    return re.findall(r'<h2>([^<]*)</h2>', page)


def absent(page):
    return [html.unescape(line) for line in re.findall(r'class="dim absent">([^<]*)', page)]


def test_a_detector(shapes, tmp_path):
    page = page_of(logs.with_networks(tmp_path, shapes), images=4, pictures=2)
    found = headings(page)
    parts = [CLASSES, PICTURES, CONFUSION, MAPS, ALIGNMENT]
    assert [name for name in found if name in parts] == parts
    assert found.index('What became worse') + 1 == found.index(CLASSES)
    assert absent(page) == []
    assert 'AP on 4 validation images (alone/epoch_2.pth, distilled/epoch_2.pth)' in page
    assert page.count('data:image/jpeg;base64,') == 1
    assert page.count('class="whole"') == 3
    assert page.count('figcaption>difference') == 3 * 5
    assert len(page) < 3e6


def test_a_classifier(shapes, tmp_path):
    page = page_of(logs.with_networks(tmp_path, shapes, 'classifier', 'kd'), images=4)
    assert [n for n in headings(page) if n in (CLASSES, PICTURES, CONFUSION, MAPS, ALIGNMENT)] == [
        CLASSES, CONFUSION, MAPS, ALIGNMENT,
    ]  # fmt: skip
    assert 'accuracy on 4 validation images' in page


def test_a_segmentor(shapes, tmp_path):
    read = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ]
    images = dict(
        type='BaseSegDataset',
        data_prefix=dict(img_path=f'{shapes}/images/val', seg_map_path=f'{shapes}/maps/val'),
        img_suffix='.jpg',
        seg_map_suffix='.png',
        metainfo=dict(classes=('nothing', *SHAPES)),
        pipeline=read,
    )
    loader = dict(batch_size=1, dataset=images)
    runs = logs.with_networks(tmp_path, shapes, 'segmentor', 'cwd', val_dataloader=loader)
    page = page_of(runs, images=4)
    assert absent(page) == []
    assert 'IoU on 4 validation images' in page
    assert [n for n in headings(page) if n in (CLASSES, PICTURES, CONFUSION, MAPS, ALIGNMENT)] == [
        CLASSES, CONFUSION, MAPS, ALIGNMENT,
    ]  # fmt: skip


def test_what_cannot_be_had_is_said(shapes, tmp_path):
    runs = logs.with_networks(tmp_path, shapes)
    assert absent(page_of(runs, models=False)) == ['Networks: not shown, left out by --no-models']
    (runs / 'teacher.pth').unlink()
    page = page_of(runs, images=4, pictures=0)
    assert [n for n in headings(page) if n in (CLASSES, PICTURES, CONFUSION)] == [
        CLASSES,
        CONFUSION,
    ]
    first, second = absent(page)
    assert first.startswith(f'{MAPS}: not shown, ')
    assert second.startswith(f'{ALIGNMENT}: not shown, ')
    assert 'teacher.pth' in first
    (runs / 'alone/epoch_2.pth').unlink()
    (line,) = absent(page_of(runs))
    assert line.startswith(f'{CLASSES}, pictures, confusion, feature maps, alignment: not shown, ')
    assert line.endswith('alone: no checkpoint is there')


def test_an_error_of_one_part_leaves_the_others(shapes, tmp_path, monkeypatch):
    def broken(*args):
        raise RuntimeError('odd')

    monkeypatch.setattr(looks, 'tally', broken)
    page = page_of(logs.with_networks(tmp_path, shapes), images=4)
    (line,) = absent(page)
    assert line.startswith(f'{CLASSES}, pictures, confusion: not shown, RuntimeError: odd')
    assert MAPS in headings(page)


def tallies(alone, distilled, count=2):
    names = [f'c{i}' for i in range(count)]
    made = (
        Tally(names, np.array(confusion), dict(zip(names, scores)), 'accuracy')
        for confusion, scores in (alone, distilled)
    )
    return dict(zip(('alone', 'distilled'), made))


def rows(body):
    return [re.findall(r'<td[^>]*>([^<]*)', row) for row in re.findall(r'<tr>(.*?)</tr>', body)][1:]


def test_classes_that_lost_come_first():
    own = tallies(([[9, 1], [0, 5]], [0.9, 1.0]), ([[7, 3], [0, 5]], [0.7, 1.0]))
    data = type('Data', (), dict(places=range(15)))
    body = looks.classes_body(own, data, 'a, b')
    assert rows(body) == [['c0', '-0.200', '0.900', '0.700'], ['c1', '+0.000', '1.000', '1.000']]
    assert '1 of 2 became worse, the worst first' in body
    assert rows(looks.classes_body(dict(distilled=own['distilled']), data, 'b'))[0] == [
        'c0',
        '-',
        '0.700',
    ]
    changed = looks.confusion_changes(own)
    assert rows(changed) == [['c0', 'c1', '+2', '1', '3']]


def test_many_classes_are_told_by_their_changes():
    count = 50
    confusion = np.eye(count, dtype=int) * 10
    scores = np.linspace(0.1, 0.9, count)
    own = tallies((confusion, scores), (confusion[::-1], scores[::-1]), count)
    data = type('Data', (), dict(places=range(15)))
    assert '50 classes are too many to draw' in looks.confusion_body(own, data)
    assert 'class="matrix"' not in looks.confusion_body(own, data)
    body = looks.classes_body(own, data, 'a')
    assert len(rows(body)) == looks.MOST_ROWS
    assert '10 in the middle left out' in body


@pytest.mark.parametrize('option', [dict(images=0), dict(pictures=-1)])
def test_wrong_numbers_are_named(tmp_path, option):
    (name, value), = option.items()  # fmt: skip
    with pytest.raises(looks.InputError, match=f'--{name} {value}: needed: '):
        write_report([tmp_path], **option)
