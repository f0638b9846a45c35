"""The file that grows image by image: no line is lost or half, and the whole is plain JSON."""

import json

from helpers import message_of

from mmkd.commands.pseudo_files import PartFile, coco_file, list_file


def test_a_whole_file_is_what_was_added(tmp_path):
    part = PartFile(tmp_path / 'o.json', dict(classes=('a',)))
    assert part.done() == set()
    part.add([dict(id=3, image=dict(id=3), annotations=[dict(image_id=3), dict(image_id=3)])])
    part.add([dict(id=4, bad='x'), dict(id=5, image=dict(id=5), annotations=[])])
    again = PartFile(tmp_path / 'o.json', dict(classes=['a']))
    assert again.done() == {3, 4, 5}
    again.finish(coco_file(again, [dict(id=1, name='a')]))
    content = json.loads((tmp_path / 'o.json').read_text())
    assert content['images'] == [dict(id=3), dict(id=5)]
    assert content['annotations'] == [dict(id=1, image_id=3), dict(id=2, image_id=3)]
    assert [path.name for path in tmp_path.iterdir()] == ['o.json']


def test_a_list_is_one_of_openmmlab(tmp_path):
    part = PartFile(tmp_path / 'o.json', {})
    part.done()
    part.add([dict(id=0, data=dict(img_path='a', gt_label=1)), dict(id=1)])
    part.finish(list_file(part, ('x', 'y')))
    content = json.loads((tmp_path / 'o.json').read_text())
    expected = dict(metainfo=dict(classes=['x', 'y']), data_list=[dict(img_path='a', gt_label=1)])
    assert content == expected


def test_every_place_of_a_kill_leaves_whole_lines(tmp_path):
    part = PartFile(tmp_path / 'o.json', dict(run=1))
    part.done()
    part.add([dict(id=i, image=dict(id=i, file_name='x' * 3000)) for i in range(4)])
    text = part.path.read_bytes()
    for length in (0, 3, len(text) // 2, len(text) - 1, len(text)):
        part.path.write_bytes(text[:length])
        done = PartFile(tmp_path / 'o.json', dict(run=1)).done()
        assert done == set(range(max(0, text[:length].count(b'\n') - 1)))


def test_a_damaged_line_is_answered(tmp_path):
    part = PartFile(tmp_path / 'o.json', dict(run=1))
    part.done()
    part.path.write_text(part.path.read_text() + 'x\n')
    assert 'line 2 is damaged; remove the file' in message_of(part.done)
