"""What a model is for, and where its stages end."""

import helpers as h
import pytest
from torch import nn

from mmkd import InputError
from mmkd.family.stages import backbone_of, stage_taps, task_of

TASKS = {'classifier': 'classification', 'segmentor': 'segmentation'}
STAGES = {'rtmdet': ['backbone']}
"""Of families whose backbone is no ResNet."""


@pytest.mark.parametrize('family', h.FAMILIES)
def test_task_and_stages_of_every_family(family):
    model = h.build(h.FAMILIES[family]())
    assert task_of(model) == TASKS.get(family, 'detection')
    stages = STAGES.get(family, [f'backbone.layer{i}' for i in (1, 2, 3, 4)])
    assert [tap.at for tap in stage_taps(model)] == stages


def test_what_is_no_model_of_the_family_has_another_task():
    assert task_of(nn.ReLU()) == 'other'


def with_blocks(count):
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.layers = nn.ModuleList([nn.ReLU() for _ in range(count)])
    return model


@pytest.mark.parametrize(
    ('model', 'stages'),
    [
        (lambda: h.build(h.transformer('swin')), [f'stages.{i}' for i in range(4)]),
        (lambda: with_blocks(12), [f'layers.{i}' for i in (2, 5, 8, 11)]),
        (lambda: with_blocks(6), [f'layers.{i}' for i in (0, 2, 3, 5)]),
        (lambda: with_blocks(3), []),
    ],
    ids=['stages', 'blocks', 'blocks that do not divide', 'too few blocks'],
)
def test_stages_of_transformers(model, stages):
    expected = [f'backbone.{name}' for name in stages] or ['backbone']
    assert [tap.at for tap in stage_taps(model())] == expected


def test_the_backbone_is_found_where_it_is_called_otherwise():
    retriever = nn.Module()
    retriever.image_encoder = nn.Sequential(h.build(h.classifier()).backbone, nn.ReLU())
    assert backbone_of(retriever) == 'image_encoder.0'
    assert [tap.at for tap in stage_taps(retriever)][-1] == 'image_encoder.0.layer4'
    with pytest.raises(InputError, match=r'ReLU has no backbone; say where to read it with tap='):
        backbone_of(nn.ReLU())
