"""Images that are to be labelled: where their names stand, and what is wrong with them."""

import json

import pytest
from helpers import message_of

from mmkd.datasets.image_list import ImageList, find_images


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'in/deep').mkdir(parents=True)
    for name in ('in/b.jpg', 'in/deep/a.png', 'in/notes.md'):
        (tmp_path / name).touch()
    return tmp_path


def names(*args):
    return [(image.name, str(image.path), image.id) for image in find_images(*args)]


def test_a_folder_a_list_and_a_coco_file_name_images(folder):
    place = folder / 'in'
    expected = [('b.jpg', f'{place}/b.jpg', 0), ('deep/a.png', f'{place}/deep/a.png', 1)]
    assert names(place) == expected
    (place / 'list.txt').write_text('b.jpg\n\ndeep/a.png \n')
    assert [n[:2] for n in names(place / 'list.txt')] == [e[:2] for e in expected]
    content = dict(images=[dict(id=7, file_name='b.jpg', width=1, height=1)])
    (folder / 'own.json').write_text(json.dumps(content))
    assert names(folder / 'own.json', place) == [('b.jpg', f'{place}/b.jpg', 7)]
    assert names(place, folder)[0][0] == 'in/b.jpg'


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ('[]', 'no COCO file (TypeError'),
        ('{"images": [{"id": 1}]}', "no COCO file (KeyError: 'file_name')"),
        ('{"images": []}', 'names no image'),
        ('{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}', 'twice'),
        ('{', 'no COCO file (JSONDecodeError'),
    ],
)
def test_a_file_that_is_none_is_answered(tmp_path, content, words):
    (tmp_path / 'x.json').write_text(content)
    assert words in message_of(find_images, tmp_path / 'x.json')


def test_a_root_elsewhere_and_a_file_of_bytes_are_answered(folder):
    assert 'does not lie in it' in message_of(find_images, folder / 'in', folder / 'other')
    (folder / 'x.bin').write_bytes(b'\xff\xfe\xff')
    assert 'no text; needed' in message_of(find_images, folder / 'x.bin')


def test_an_image_comes_with_what_became_of_it(folder):
    images = find_images(folder / 'in')

    def step(entry):
        if entry['img_id'] == 1:
            raise OSError('truncated')
        return entry if entry['img_path'].endswith('b.jpg') else None

    found = ImageList([*images, images[0]], [step])
    assert found[0][1]['instances'] == []
    assert found[1] == (images[1], 'OSError: truncated')
    assert ImageList(images, [lambda entry: None])[0][1].startswith('nothing is left')
