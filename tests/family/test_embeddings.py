"""Where a classifier has its embedding, and that maps are pooled."""

import helpers as h
import torch

from mmkd.family.embeddings import embedding_of, embedding_taps
from mmkd.family.taps import Tap, capture


def test_the_pooling_or_the_backbone():
    assert embedding_taps(h.build(h.classifier())) == [Tap('neck')]
    assert embedding_taps(h.build(h.transformer('vit'))) == [Tap('backbone')]
    assert embedding_taps(h.build(h.classifier()), 'head') == [Tap('head')]


def test_the_last_one_counts_and_maps_are_pooled():
    net = torch.nn.Sequential(torch.nn.Identity())
    maps = torch.randn(2, 3, 4, 5)
    with capture(net, [('0', 'output')]) as features:
        net(torch.zeros(2, 3))
        net(maps)
    torch.testing.assert_close(embedding_of(features, [Tap('0')]), maps.mean((2, 3)))
    assert not embedding_of(features, [Tap('0', levels=(0,))]).any()
