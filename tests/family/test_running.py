import helpers as h
import pytest
import torch

from mmkd import InputError, Tap
from mmkd.family.running import all_taps, observe, probe


@pytest.mark.parametrize('family', h.FAMILIES)
def test_a_dry_run_changes_nothing(family):
    model = h.build(h.FAMILIES[family]())
    model.train()
    model.backbone.eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    probe(model, [Tap('backbone')])
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes


def test_shapes_counts_and_overwritten_places():
    model = h.build(h.retinanet())
    taps = [Tap('neck'), Tap('bbox_head.retina_cls'), Tap('backbone.bn1'), Tap('backbone.layer2')]
    result = probe(model, taps)
    assert [tuple(s) for s in result.shapes[taps[0]]] == [(1, 16, n, n) for n in (16, 8, 4, 2, 1)]
    assert result.counts[('bbox_head.retina_cls', 'output')] == 5
    assert result.overwritten == {('backbone.bn1', 'output')}


def test_a_roi_head_is_driven_on_given_boxes():
    model = h.build(h.faster_rcnn()).eval()
    boxes = torch.tensor([[0, 0.0, 0, 30, 30], [1, 5.0, 5, 40, 40], [0, 2.0, 2, 20, 20]])
    taps, rois = [Tap('roi_head.bbox_head', item=0)], {('bbox', None): boxes}
    features = observe(model, taps, torch.randn(2, 3, 64, 64), rois=rois)
    assert features[Tap('roi_head.bbox_head', item=0)][0].shape == (3, h.CLASSES + 1)


def test_all_taps_of_a_model_with_their_shapes():
    names = dict(all_taps(h.build(h.faster_rcnn())))
    assert {'backbone.layer1', 'neck', 'rpn_head', 'roi_head.bbox_head'} <= set(names)
    assert [tuple(s) for s in names['neck']] == [(1, 16, n, n) for n in (32, 16, 8, 4, 2)]


def test_a_model_that_cannot_be_run_says_why():
    class Broken(torch.nn.Module):
        def forward(self, *args, **kwargs):
            raise TypeError('no')

    model = torch.nn.Sequential(torch.nn.ReLU())
    model.forward = Broken().forward
    with pytest.raises(InputError, match=r'the student cannot be run.*128 px TypeError: no'):
        probe(model, [Tap('0')], 'the student')


class Detector(torch.nn.Module):
    """Its head needs samples that a blank image has not."""

    def __init__(self, size=None):
        super().__init__()
        self.backbone, self.head = torch.nn.Conv2d(3, 4, 4, stride=4), torch.nn.ReLU()
        self.size, self.tried = size, []

    def extract_feat(self, inputs):
        self.tried.append(inputs.shape[-1])
        if self.size not in (None, inputs.shape[-1]):
            raise ValueError('wrong size')
        return self.backbone(inputs)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.head(self.extract_feat(inputs))
        raise KeyError('no boxes')


def test_heads_do_not_run_for_taps_before_them():
    assert probe(Detector(), [Tap('backbone')]).shapes[Tap('backbone')] == [(1, 4, 32, 32)]
    with pytest.raises(InputError, match=r"cannot be run.*KeyError: 'no boxes'"):
        probe(Detector(), [Tap('head')])


def test_given_sizes_are_tried_first():
    model = Detector(size=64)
    assert probe(model, [Tap('backbone')], sizes=[32, 64]).image == 64
    assert model.tried == [32, 64]


def test_no_further_size_is_tried_when_time_is_up(monkeypatch):
    monkeypatch.setattr('mmkd.family.running.SECONDS', -1)
    model = Detector(size=64)
    with pytest.raises(InputError, match='at 128 px ValueError: wrong size'):
        probe(model, [Tap('backbone')])
    assert model.tried.count(128) == len(model.tried)


def test_the_axis_of_a_single_image_that_is_squeezed_away_comes_back():
    class Squeezing(Detector):
        def extract_feat(self, inputs):
            return self.head(self.backbone(inputs).mean((2, 3)).squeeze())

    assert probe(Squeezing(), [Tap('head')]).shapes[Tap('head')] == [(1, 4)]


def test_a_dense_head_before_masks_answers_once_for_each_level():
    """The whole forward of such a detector runs that head again, in its loss, to find objects for the masks."""
    model = h.build(h.condinst())
    result = probe(model, [Tap('bbox_head', item=0), Tap('neck')])
    assert result.counts == {('bbox_head', 'output'): 1, ('neck', 'output'): 1}
    assert [s[1] for s in result.shapes[Tap('bbox_head', item=0)]] == [h.CLASSES] * 5
    masks = probe(model, [Tap('mask_head.mask_feature_head')])
    assert masks.shapes[Tap('mask_head.mask_feature_head')] == [(1, 8, 16, 16)]


def test_the_first_of_several_decode_heads_answers_without_those_behind_it():
    """As PointRend's, whose points mmseg cannot refine outside of a loss or a prediction."""

    class Segmentor(Detector):
        def __init__(self):
            super().__init__()
            self.decode_head = torch.nn.ModuleList([torch.nn.Conv2d(4, 3, 1), torch.nn.ReLU()])

    shapes = probe(Segmentor(), [Tap('decode_head.0')]).shapes
    assert shapes[Tap('decode_head.0')] == [(1, 3, 32, 32)]
    with pytest.raises(InputError, match='no boxes'):
        probe(Segmentor(), [Tap('decode_head.1')])
