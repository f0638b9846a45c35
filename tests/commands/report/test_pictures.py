"""Pictures of what alone, distilled and teacher find on the same images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mmkd import InputError
from mmkd.commands.picture import Box
from mmkd.commands.report.networks import Data
from mmkd.commands.report.pictures import compared_images, drawn
from mmkd.commands.report.tallies import Tally


class Images:
    """A data set of four images with two rings each."""

    metainfo = dict(classes=('ring',))

    def __init__(self, folder):
        self.files = [str(folder / f'{i}.png') for i in range(4)]
        for file in self.files:
            cv2.imwrite(file, np.full((40, 40, 3), 90, np.uint8))

    def get_data_info(self, place):
        objects = [dict(bbox=[x, 0, x + 10, 10], bbox_label=0) for x in (0, 20)]
        return dict(
            img_path=self.files[place], instances=[*objects, dict(objects[0], ignore_flag=1)]
        )


def found(*counts):
    """So many of the rings of each image."""
    boxes = [Box('ring', (20.0 * i, 0.0, 10.0, 10.0), 0.9) for i in range(2)]
    return Tally(['ring'], np.zeros((1, 1)), boxes={i: boxes[:n] for i, n in enumerate(counts)})


def test_images_are_chosen_in_both_directions(tmp_path):
    data = Data(Images(tmp_path), [0, 1, 2, 3])
    tallies = dict(alone=found(0, 1, 1, 2), distilled=found(2, 2, 0, 2), teacher=found(2, 2, 2, 2))
    chosen, caption = compared_images(data, tallies, 3)
    assert [one.file for one in chosen] == [data.dataset.files[i] for i in (0, 1, 2)]
    assert [len(one.truth) for one in chosen] == [2, 2, 2]  # what is to be ignored is left out
    assert 'better on 2 images, the student alone on 1' in caption
    picture = cv2.imdecode(np.frombuffer(drawn(chosen), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[0] > 600
    assert picture[-30:].min() < 128  # no white below the legend


def test_what_is_missing_is_named(tmp_path):
    data = Data(Images(tmp_path), [0])
    with pytest.raises(
        InputError, match=r'a training of the student alone is needed \(--baseline DIR\)'
    ):
        compared_images(data, dict(distilled=found(1)), 1)
    data.dataset.files[0] = ''
    chosen, _ = compared_images(data, dict(alone=found(0), distilled=found(1)), 1)
    with pytest.raises(InputError, match='the images of this data set are no files'):
        drawn(chosen)
