import helpers as h
import pytest
import torch
from torch import nn

from mmkd.core.unread import Zeros, skip_unread
from mmkd.family.taps import Tap, capture

IMAGES = torch.randn(1, 3, 64, 64)


def answers(model, tap):
    def run():
        with capture(model, [tap.place]) as features:
            model(IMAGES, mode='tensor')
        return features[tap]

    return run


@pytest.mark.parametrize('family', ['retinanet', 'gfl', 'fcos'])
def test_boxes_are_not_made_where_only_classes_are_read(family):
    model = h.build(h.FAMILIES[family]()).eval().requires_grad_(False)
    run = answers(model, Tap('bbox_head', item=0))
    with torch.no_grad():
        right = run()
        skipped = skip_unread(model, run)
        found = run()
    assert all(torch.equal(a, b) for a, b in zip(found, right))
    assert any('reg_convs' in name for name in skipped)
    assert not any(name.startswith(('backbone', 'neck')) or 'cls' in name for name in skipped)
    assert not any(p.requires_grad for p in model.parameters())


def test_of_a_tap_that_all_depends_on_nothing_is_skipped():
    model = h.build(h.classifier()).eval().requires_grad_(False)
    assert skip_unread(model, answers(model, Tap('head.fc'))) == []


class Picks(nn.Module):
    """Its answer depends on a layer by an index alone, which autograd does not see."""

    def __init__(self):
        super().__init__()
        self.score, self.value = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.value(x).gather(1, self.score(x).argmin(1, keepdim=True))


def test_what_is_read_by_an_index_runs():
    model = nn.Sequential(Picks()).requires_grad_(False)
    model[0].score.bias.copy_(torch.tensor([5.0, 5.0, -5.0]))

    def run():
        with capture(model, [Tap('0').place]) as features:
            model(torch.ones(1, 3))
        return features.tensors()

    assert skip_unread(model, run) == []
    assert model[0].score(torch.ones(1, 3)).any()


@pytest.mark.parametrize(
    'layer',
    [
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(4, 6, (3, 1), (2, 1), (0, 2), (1, 2)),
        nn.Conv2d(4, 4, 5, groups=4),
    ],
)
def test_zeros_have_the_layers_shape(layer):
    x = torch.ones(2, 4, 16, 11)
    assert Zeros(layer)(x).shape == layer(x).shape
    assert not Zeros(layer)(x).any()
    assert Zeros(nn.Linear(11, 5))(x).shape == (2, 4, 16, 5)
