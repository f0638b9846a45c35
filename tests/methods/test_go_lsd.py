"""GO-LSD on a real decoder with bins in each layer: against plain loops, and who is refused."""

import helpers as h
import numpy as np
import pytest
import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from scipy.special import expit, rel_entr, softmax

from mmkd import InputError, Tap
from mmkd.family.taps import capture

GO_LSD = dict(type='mmkd.GOLSD')
BINS, HEAD = Tap('bbox_head.integral', source='input'), Tap('bbox_head')


def still(**options):
    model = h.distiller(h.binned_detr(), go=dict(GO_LSD, **options)).train()
    with torch.no_grad():  # else boxes hardly overlap objects
        model.bbox_head.sides.weight.mul_(5)
    return h.freeze_statistics(model)


def expected(model, batch, bins, classes, boxes, temperature):
    """The loss by loops over layers, images and queries."""
    head, samples = model.bbox_head, batch['data_samples']
    given = [s.gt_instances for s in samples], [s.metainfo for s in samples]
    targets = [head.get_targets([*c], [*b], *given) for c, b in zip(classes, boxes)]
    total, last = 0.0, len(bins) - 1
    for layer in range(last):
        groups = {True: [], False: []}
        for image, sample in enumerate(samples):
            height, width = sample.metainfo['img_shape']
            scale = torch.tensor([width, height] * 2)
            for query in range(30):
                apart = 0.0
                for side in range(4):
                    z = [bins[k, image, query, side].numpy() / temperature for k in (layer, last)]
                    s, t = softmax(z[0]), softmax(z[1])
                    apart += temperature**2 * rel_entr(t, s).sum() / 4
                chosen = [
                    tuple(found[2][image][query].tolist()) for found in targets
                    if found[0][image][query] < h.CLASSES
                ]  # fmt: skip
                weight = expit(classes[last, image, query].numpy()).max()
                if chosen:
                    most = max(chosen, key=chosen.count)
                    pair = boxes[layer, image, query], torch.tensor(most)
                    places = [bbox_cxcywh_to_xyxy(side)[None] * scale for side in pair]
                    weight = bbox_overlaps(*places, is_aligned=True).item()
                groups[bool(chosen)].append(weight * apart)
        roots = {key: len(group) ** 0.5 for key, group in groups.items()}
        total += sum(roots[key] * np.mean(group) for key, group in groups.items()) / sum(
            roots.values()
        )
    return total


@pytest.mark.parametrize('options', [{}, dict(temperature=2.0, weight=3.0)])
def test_the_last_layers_bins_teach(options):
    model = still(**options)
    batch = model.data_preprocessor(h.raw_batch('dab_detr'), True)
    with capture(model, [BINS.place, HEAD.place]) as features:
        loss = model(**batch, mode='loss')['go/loss']
    bins = torch.stack([t.detach().double() for t in features[BINS]]).unflatten(-1, (4, 8))
    classes, boxes = (t.detach() for t in features[HEAD])
    right = expected(model, batch, bins, classes, boxes, options.get('temperature', 5.0))
    assert loss.item() == pytest.approx(options.get('weight', 1.5) * right, rel=1e-3)


def test_the_layers_before_the_last_learn_and_it_does_not():
    model = still()
    with capture(model, [BINS.place]) as features:
        loss = h.losses_of(model, 'dab_detr')['go/loss']
    first, last = torch.autograd.grad(loss, features[BINS], retain_graph=True, allow_unused=True)
    assert first.abs().sum() > 0
    assert last is None or not last.any()
    loss.backward()
    assert model.backbone.layer4[0].downsample[0].weight.grad.abs().sum() > 0


def test_bins_are_read_where_the_tap_says():
    found = []
    for tap in (None, 'bbox_head.sides'):
        model = still(**({'tap': tap} if tap else {}))
        found.append(h.losses_of(model, 'dab_detr')['go/loss'].item())
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_images_without_objects_teach_too():
    model = still()
    raw = h.raw_batch('dab_detr')
    for sample in raw['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    loss = model(**model.data_preprocessor(raw, True), mode='loss')['go/loss']
    assert loss.isfinite()
    assert loss > 0


def one_layer():
    cfg = h.binned_detr()
    cfg.decoder.num_layers = 1
    return cfg


@pytest.mark.parametrize(
    ('student', 'options', 'words'),
    [
        (h.gfl, {}, 'GOLSD is for a head of queries, the student .* a dense head'),
        (h.dab_detr, {}, 'GOLSD is for decoders whose layers tell boxes by bins .*, DABDETR has no module'),
        (one_layer, {}, r'GOLSD: \[\(1, 30, 32\)\] at .*needed: bins of two to 1 decoder layers'),
        (h.dab_detr, dict(tap='bbox_head.fc_cls'), r'GOLSD: \[\(2, 1, 30, 4\)\] at .*needed: bins'),
    ],
)  # fmt: skip
def test_other_heads_are_answered(student, options, words):
    with pytest.raises(InputError, match=words) as error:
        h.distiller(student(), go=dict(GO_LSD, **options))
    assert '\n' not in str(error.value)
