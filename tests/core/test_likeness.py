"""Heads that do not compare are named, whichever method compares them."""

import helpers as h
import pytest

from mmkd import InputError
from mmkd.core.likeness import KINDS, refuse_boxes, refuse_other_heads, refuse_other_kinds
from mmkd.family.heads import head_kind


@pytest.mark.parametrize('family', h.FAMILIES)
def test_every_kind_has_words(family):
    model = h.build(h.FAMILIES[family]())
    kind = head_kind(model)
    refuse_other_heads('X', model, kind, 'the student')
    other = next(name for name in KINDS if name != kind)
    with pytest.raises(InputError, match=f'X is for {KINDS[other]}, the student .* {KINDS[kind]}'):
        refuse_other_heads('X', model, other, 'the student')


def test_kinds_of_both_sides_are_named():
    with pytest.raises(InputError, match=r"X: .*'vector'.*'dense'.*pkd"):
        refuse_other_kinds('X', h.build(h.classifier()), h.build(h.retinanet()))


def test_a_weight_of_boxes_that_do_not_compare_is_named():
    with pytest.raises(InputError, match=r'X: boxes=2\.0; the boxes of RetinaHead .*leave it out'):
        refuse_boxes('X', 2.0, h.build(h.retinanet()))
