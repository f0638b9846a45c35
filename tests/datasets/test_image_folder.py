import cv2
import helpers as h
import numpy as np

from mmkd.datasets import ImageFolder
from mmkd.datasets.image_folder import images_in


def test_all_images_of_a_tree_are_found_in_the_order_of_their_names(tmp_path):
    (tmp_path / 'b').mkdir()
    for name in ('b/2.png', 'a.JPG', 'c.webp'):
        cv2.imwrite(str(tmp_path / name.lower()), np.full((4, 6, 3), 9, np.uint8))
        (tmp_path / name.lower()).rename(tmp_path / name)
    (tmp_path / 'notes.txt').write_text('none')
    data = ImageFolder(tmp_path, pipeline=[dict(type='LoadImageFromFile')])
    assert [data[i]['img_path'] for i in range(len(data))] == [
        str(tmp_path / name) for name in ('a.JPG', 'b/2.png', 'c.webp')
    ]
    assert data[0]['img'].shape == (4, 6, 3)
    assert data[0]['instances'] == []


def test_classes_go_into_the_checkpoint(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((4, 4, 3), np.uint8))
    assert ImageFolder(tmp_path, [], dict(classes=('x',))).metainfo['classes'] == ('x',)


def test_a_folder_without_images_is_named(tmp_path):
    assert 'no image in it; needed: files that end in .jpg' in h.message_of(images_in, tmp_path)
    assert 'no such folder' in h.message_of(images_in, tmp_path / 'nowhere')
