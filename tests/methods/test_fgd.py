"""FGD in detectors: its terms on the features of both sides, its weights, and what it refuses."""

import helpers as h
import pytest
import torch

from mmkd.errors import InputError
from mmkd.necks.focal_global import foreground_masks


@pytest.mark.parametrize('family', ['retinanet', 'gfl', 'faster_rcnn', 'cascade_rcnn', 'dino'])
def test_the_method_sums_weighted_levels(family):
    teacher = h.FAMILIES[family]()
    model = h.distiller(h.FAMILIES[family](), teacher, fgd=dict(type='mmkd.FGD'))
    data = model.data_preprocessor(h.raw_batch(family), True)
    fgd = model.distillation.fgd
    h.freeze_statistics(model)  # so that a second pass gives the same features
    with torch.no_grad():
        losses = model(**data, mode='loss')
        ours = model.extract_feat(data['inputs'])
        theirs = model.distillation.teachers['teacher'].model.extract_feat(data['inputs'])
    image = data['inputs'].shape[-2:]
    expected = dict.fromkeys(fgd.terms.weights, 0.0)
    for level, s, t in zip(fgd.terms, ours, theirs):
        mask = foreground_masks(data['data_samples'], s.shape[-2:], image, s.device)
        for name, value in level(s, t, mask).items():
            expected[name] += fgd.terms.weights[name] * value.item()
    for name, value in expected.items():
        assert losses[f'fgd/{name}'].item() == pytest.approx(value, rel=1e-5), name


PUBLISHED = {
    'retinanet': (1e-3, 5e-4, 5e-4, 5e-6, 0.5),
    'gfl': (1e-3, 5e-4, 5e-4, 5e-6, 0.5),
    'faster_rcnn': (5e-5, 2.5e-5, 5e-5, 5e-7, 0.5),
    'mask_rcnn': (5e-5, 2.5e-5, 5e-5, 5e-7, 0.5),
    'fcos': (1.6e-3, 8e-4, 8e-4, 8e-6, 0.8),
}
"""alpha, beta, gamma, lam and T of the authors' config for a detector of that family."""


@pytest.mark.parametrize('family', PUBLISHED)
def test_weights_and_temperature_are_those_of_the_authors_config(family):
    config = h.FAMILIES[family]()
    fgd = h.distiller(config, config, fgd=dict(type='mmkd.FGD')).distillation.fgd
    terms = ('foreground', 'background', 'attention', 'relation')
    assert [fgd.terms.weights[f'loss_{term}'] for term in terms] == list(PUBLISHED[family][:4])
    assert {level.temperature for level in fgd.terms} == {PUBLISHED[family][4]}


def test_a_given_temperature_is_taken():
    fgd = h.distiller(
        h.fcos(), h.fcos(), fgd=dict(type='mmkd.FGD', temperature=0.5)
    ).distillation.fgd
    assert {level.temperature for level in fgd.terms} == {0.5}


def test_a_term_without_weight_is_left_out():
    model = h.distiller(h.retinanet(), h.retinanet(), fgd=dict(type='mmkd.FGD', lam=0.0))
    names = {n for n in h.losses_of(model, 'retinanet') if n.startswith('fgd/')}
    assert names == {f'fgd/loss_{n}' for n in ('foreground', 'background', 'attention')}


@pytest.mark.parametrize(
    ('options', 'family', 'words'),
    [
        (dict(alpha=-1.0), 'retinanet', 'alpha=-1.0; needed: a finite number >= 0'),
        (dict(temperature=0.0), 'retinanet', 'temperature=0.0'),
        (
            {},
            'classifier',
            'FGD is for detection, the student (ImageClassifier) does classification',
        ),
    ],
)
def test_wrong_input_is_answered(options, family, words):
    with pytest.raises(InputError) as error:
        h.distiller(
            h.FAMILIES[family](), h.FAMILIES[family](), fgd=dict(type='mmkd.FGD', **options)
        )
    assert words in str(error.value)
