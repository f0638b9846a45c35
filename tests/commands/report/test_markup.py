"""Pieces of HTML: what comes from outside is no HTML, and cells have their colours."""

import numpy as np

from mmkd.commands.report.markup import BAD, GOOD, card, image, matrix, table


def test_names_are_no_html():
    pieces = (
        card('<b>', ''),
        table(['<b>'], []),
        image(b'x', 'png', '<b>'),
        matrix('<b>', ['<b>'], ['<b>'], [['<b>']], np.ones((1, 1))),
    )
    assert not any('<b>' in piece for piece in pieces)


def test_cells_are_coloured_by_their_strength():
    strength = np.array([[1.0, 0.2], [np.nan, 0.0]])
    drawn = matrix(
        '', ['a', 'b'], ['a', 'b'], [['1', '2'], ['3', '4']], strength, ~np.eye(2, dtype=bool)
    )
    assert f'<td style="background:rgba({GOOD},0.75)">1</td>' in drawn
    assert f'<td style="background:rgba({BAD},0.15)">2</td>' in drawn
    assert '<td>3</td>' in drawn
    assert '<td>4</td>' in drawn


def test_a_picture_is_part_of_the_page():
    assert (
        image(b'abc', 'png', 'x', 'map')
        == '<img class="map" alt="x" src="data:image/png;base64,YWJj">'
    )
