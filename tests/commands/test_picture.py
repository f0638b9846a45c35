import random

import cv2
import numpy as np
import pytest

from mmkd.commands.picture import (
    COLUMNS,
    Box,
    Compared,
    Judged,
    choose,
    compare_images,
    draw_comparison,
    judge,
    label_place,
    overlap,
)


def box(name='ring', left=0.0, top=0.0, side=10.0, score=None):
    return Box(name, (left, top, side, side), score)


def compared(gain, objects=1, name='x.jpg'):
    """An image on which the distilled student's F1 is above the student's by a tenth of a number."""
    scores = dict(alone=10 - max(gain, 0), distilled=10 + min(gain, 0), teacher=10)
    judged = {
        d: Judged([box()] * n, [box()] * (10 - n), [box()] * (10 - n)) for d, n in scores.items()
    }
    return Compared(name, [box()] * objects, judged)


def test_overlap_is_intersection_over_union():
    assert overlap(box(), box()) == 1
    assert overlap(box(), box(left=10)) == overlap(box(), box(top=30)) == 0
    assert overlap(box(), box(left=5, top=5)) == pytest.approx(25 / 175)


def test_an_object_is_found_once_by_the_surest_box_of_its_class():
    objects = [box(), box('star', left=30)]
    found = [
        box(score=0.5),
        box(left=1, score=0.9),
        box('cross', left=30, score=0.8),
        box(left=60, score=0.7),
    ]
    judged = judge(found, objects)
    assert [b.score for b in judged.right] == [0.9]
    assert [b.score for b in judged.wrong] == [0.8, 0.7, 0.5]
    assert judged.missed == [objects[1]]
    assert judged.f1 == pytest.approx(2 / (2 + 3 + 1))


def test_a_box_takes_the_object_that_it_overlaps_most():
    objects = [box(), box(left=4)]
    judged = judge([box(left=4, score=0.9), box(score=0.8)], objects)
    assert (len(judged.right), judged.wrong, judged.missed) == (2, [], [])


def test_nothing_to_find_and_nothing_found_is_right():
    assert judge([], []).f1 == 1
    assert judge([box(score=0.9)], []).f1 == judge([], [box()]).f1 == 0


@pytest.mark.parametrize(
    ('better', 'worse', 'shown'),
    [(30, 10, 4), (10, 30, 2), (60, 0, 6), (0, 5, 0), (100, 4, 6), (1, 1, 3)],
)
def test_both_directions_are_shown_as_often_as_they_occur(better, worse, shown):
    images = [compared(1)] * better + [compared(-1)] * worse + [compared(0)] * 7
    gains = [image.gain for image in choose(images)]
    assert sum(gain > 0 for gain in gains) == min(shown, better)
    assert sum(gain < 0 for gain in gains) == min(6 - shown, worse)


def test_the_greatest_differences_are_shown_of_equals_those_with_more_objects():
    images = [compared(gain, objects) for gain in (-3, 0, 1, 2, 5) for objects in (1, 3, 2)]
    random.Random(0).shuffle(images)
    shown = [(round(10 * i.gain), len(i.truth)) for i in choose(images)]
    assert shown == [(5, 3), (5, 2), (5, 1), (2, 3), (-3, 3), (-3, 2)]


def test_without_any_difference_the_first_images_are_shown():
    images = [compared(0, name=f'{i}') for i in range(9)]
    assert [image.file for image in choose(images)] == list('012345')


def coco(count):
    return dict(
        images=[dict(id=i, file_name=f'{i}.jpg') for i in range(count)],
        annotations=[dict(image_id=i, category_id=2, bbox=[5, 5, 20, 20]) for i in range(count)],
        categories=[dict(id=1, name='circle'), dict(id=2, name='ring')],
    )


def found(count, category=2, score=0.9):
    return [
        dict(image_id=i, category_id=category, bbox=[5, 5, 20, 20], score=score)
        for i in range(count)
    ]


def test_images_are_compared_at_one_score_and_counted():
    boxes = dict(alone=[*found(2), *found(8, score=0.29)], distilled=found(6), teacher=found(8))
    chosen, caption = compare_images(coco(8), boxes, 0.3)
    assert len(chosen) == 4  # no other differs
    assert {image.gain for image in chosen} == {1.0}
    caption = ' '.join(caption.split())
    assert 'over all 8 images: student alone 0.40, distilled 0.86, teacher 1.00.' in caption
    assert 'The distilled student is better on 4 images, the student alone on 0' in caption
    assert 'shown are 4 of the first and 0 of the second' in caption
    assert [len(chosen[0].detectors[d].missed) for d in ('alone', 'distilled')] == [1, 0]


def test_names_of_boxes_do_not_cover_each_other():
    taken = []
    places = [label_place(box('star', 20, 30, 40), 128, taken) for _ in range(4)]
    rows = sorted(y for _, y in places)
    assert min(np.diff(rows)) > 0.99 * 128 / 12
    assert label_place(box('star', 70, 30, 40), 128, taken) == (70, 30)
    assert label_place(box('star', 0, 0, 40), 128, []) == (0, 128 / 12)  # inside of the image


def test_a_wrong_class_is_wrong():
    boxes = dict(alone=found(1, category=1), distilled=found(1), teacher=[])
    (image,), _ = compare_images(coco(1), boxes, 0.3)
    assert [b.name for b in image.detectors['alone'].wrong] == ['circle']
    assert image.truth == [Box('ring', (5, 5, 20, 20))]


@pytest.fixture(scope='module')
def picture(tmp_path_factory):
    folder = tmp_path_factory.mktemp('picture')
    for i in range(8):
        cv2.imwrite(str(folder / f'{i}.jpg'), np.full((64, 64, 3), 90, np.uint8))
    boxes = dict(alone=found(3, category=1), distilled=found(8), teacher=found(8))
    chosen, caption = compare_images(coco(8), boxes, 0.3)
    rows = [('all', 0.3, 0.4, 0.6), ('circle', 0.5, 0.4, 0.6), ('ring', 0.3, 0.4, 0.6)]
    draw_comparison(folder / 'out/picture.png', folder, chosen, caption, rows)
    return cv2.imread(str(folder / 'out/picture.png'))


def panels(picture):
    """The rectangles of a picture that are the images' grey, as left, top, width, height."""
    grey = (np.abs(picture.astype(int) - 90).max(2) <= 2).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(
        cv2.morphologyEx(grey, cv2.MORPH_OPEN, np.ones((9, 9)))
    )
    return [tuple(s[:4]) for s in stats[1:] if s[2] > 80 and s[3] > 80]


def test_the_picture_has_six_rows_of_four_panels_and_a_table_below(picture):
    places = panels(picture)
    assert len(places) == 6 * len(COLUMNS) == 24
    lefts = sorted(p[0] for p in places)
    assert [max(c) - min(c) <= 12 for c in np.array_split(lefts, 4)] == [True] * 4
    assert max(p[1] + p[3] for p in places) < 0.85 * len(picture)
    assert (picture[int(0.86 * len(picture)) :].min(2) < 128).sum() > 1000  # the text of the table


def test_right_wrong_and_missed_have_their_colours(picture):
    places = sorted(panels(picture), key=lambda p: (p[1], p[0]))
    columns = np.array_split(np.arange(picture.shape[1]), 4)
    height = max(p[1] + p[3] for p in places)

    def share(column, bgr):
        part = picture[:height, columns[column]].astype(int)
        return int((np.abs(part - bgr).max(2) < 30).sum())

    green, red, yellow = (80, 161, 18), (63, 23, 229), (0, 212, 255)
    assert share(0, green) == share(0, red) == share(0, yellow) == 0
    assert share(1, red) > 100
    assert share(1, yellow) > 100
    assert share(1, green) == 0
    assert share(2, green) > 100
    assert share(2, red) == share(2, yellow) == 0
