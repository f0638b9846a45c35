"""Queries are drawn where a decoder has its points, and a decoder runs once more as it would have run."""

import helpers as h
import pytest
import torch

from mmkd import InputError
from mmkd.family.decoding import (
    decode,
    numbers_of,
    own_queries,
    point_taps,
    random_queries,
    refuse_other_decoders,
)
from mmkd.family.taps import capture


def run(family):
    model = h.build(h.FAMILIES[family]()).eval()
    batch = model.data_preprocessor(h.raw_batch(family), True)
    with torch.no_grad(), capture(model, [point_taps()[0].place]) as features:
        found = model(**batch, mode='tensor')
        return model, features, found


@pytest.mark.parametrize('family', ['dino', 'deformable_detr'])
def test_with_its_own_queries_a_decoder_says_what_it_has_said(family):
    model, features, found = run(family)
    with torch.no_grad():
        again = decode(model, features, own_queries(features))
    assert all(torch.equal(a, b) for a, b in zip(again, found))


def test_points_are_drawn_and_contents_taken_in_turn():
    own = dict(query=torch.arange(3.0).view(1, 3, 1), reference_points=torch.rand(1, 3, 4))
    chances = torch.tensor([0.0, 0.5, 1.0, 0.25]).expand(1, 5, 4)
    found = random_queries(own, chances)
    assert found['query'].flatten().tolist() == [0, 1, 2, 0, 1]
    assert found['reference_points'][0, 0].tolist() == pytest.approx([0.01, 0.5, 0.99, 0.255])


def test_boxes_before_their_sigmoid_and_embeddings_are_drawn_in_their_own_terms():
    query = torch.zeros(1, 4000, 1)
    chances = torch.rand(1, 4000, 4)
    boxes = random_queries(dict(query=query, query_pos=torch.randn(1, 4000, 2)), chances)
    torch.testing.assert_close(boxes['query_pos'].sigmoid(), 0.01 + 0.98 * chances[..., :2])
    embeddings = 3 + 2 * torch.randn(1, 4000, 6)
    own = dict(query=query, query_pos=embeddings)
    assert numbers_of(own) == 6
    found = random_queries(own, torch.rand(1, 4000, 6))['query_pos']
    assert found.mean().item() == pytest.approx(3, abs=0.05)
    assert found.std().item() == pytest.approx(2, rel=0.1)


def test_decoders_that_need_more_are_answered():
    for owner, words, change in (
        ('the student', 'needs cache_dict besides', lambda m: setattr(m.decoder, 'cache_dict', {})),
        ('the teacher', 'needs text besides',
         lambda m: setattr(m, 'forward_decoder', lambda query, memory, text: None)),
        ('the student', 'has none', lambda m: setattr(m, 'decoder', None)),
    ):  # fmt: skip
        model = h.build(h.dino())
        change(model)
        with pytest.raises(InputError, match=f'KDDETR runs .* DINO of {owner} {words}'):
            refuse_other_decoders('KDDETR', model, owner)
    refuse_other_decoders('KDDETR', h.build(h.dino()), 'the student')
