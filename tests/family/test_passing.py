"""Stages by what passes."""

import helpers as h
import pytest

from mmkd.family.passing import several_stages
from mmkd.family.running import probe


def classifier(kind):
    student = h.classifier()
    student.backbone = dict(type=kind, **({'arch': 'A0'} if 'RepVGG' in kind else {}))
    return h.build(student)


@pytest.mark.parametrize('kind', ['mmpretrain.MobileNetV2', 'mmpretrain.RepVGG'])
def test_a_backbone_that_lists_no_stages_has_those_of_its_sizes(kind):
    model = classifier(kind)
    taps = several_stages(model)
    shapes = probe(model, taps).shapes
    assert [shapes[tap][0][-1] for tap in taps] == [32, 16, 8, 4]


def test_a_listed_stage_stays_what_it_is():
    names = [tap.at for tap in several_stages(h.build(h.classifier()))]
    assert names == [f'backbone.layer{i}' for i in (1, 2, 3, 4)]


def test_maps_of_heads_within_attention_are_no_stages():
    student = h.classifier()
    student.backbone = dict(type='mmpretrain.MViT', arch='tiny')
    model = h.build(student)
    taps = several_stages(model)
    assert [tap.at for tap in taps if 'attn' in tap.at] == []
    shapes = [probe(model, taps).shapes[tap][0] for tap in taps]
    assert [shape[-1] for shape in shapes] == [32, 16, 8, 4]
    assert {shape[0] for shape in shapes} == {1}
