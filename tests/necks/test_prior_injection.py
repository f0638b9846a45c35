"""The stitched sequence: what stands where, what gets gradient, what it costs."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmkd.errors import InputError
from mmkd.necks import prior_injection as module
from mmkd.necks.prior_injection import PriorInjection, patchify, positions, prior_tokens, sizes_of


def neck(**options):
    torch.manual_seed(0)
    return PriorInjection(6, 8, encoder=(16, 1, 2), decoder=(24, 1, 2), **options)


def maps(n=2, size=(5, 7), seed=0):
    rng = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(n, c, *size, generator=rng) for c in (6, 8))
    return student.requires_grad_(), teacher.requires_grad_()


def blend(net, student, teacher, teachers):
    """The stitched sequence before the decoder, made token by token."""
    tokens = {True: patchify(teacher, net.patch), False: patchify(student, net.patch)}
    grid = net.grid(teacher.shape[-2:])
    rows = []
    for image in range(len(student)):
        placed = {}
        for side, embed, encoder in (
            (True, net.teacher_embed, net.teacher_encoder),
            (False, net.student_embed, net.student_encoder),
        ):
            at = [i for i in range(math.prod(grid)) if (i in teachers[image]) == side]
            kept = embed(tokens[side][image, at][None])
            placed.update(zip(at, encoder(kept + positions(grid, kept)[:, at])[0]))
        rows.append(torch.stack([placed[i] for i in sorted(placed)]))
    stitched = net.project(torch.stack(rows))
    return net.predict(net.decoder(stitched + positions(grid, stitched)))


@pytest.mark.parametrize('patch', [1, 2, 3])
def test_it_equals_a_stitching_token_by_token(patch):
    net = neck(patch=patch)
    student, teacher = maps()
    grid = net.grid((5, 7))
    count = math.prod(grid)
    scores = torch.rand(2, count, generator=torch.Generator().manual_seed(1))
    teachers = [set(row[: prior_tokens(0.4, count)].tolist()) for row in scores.argsort(1)]
    expected = blend(net, student, teacher, teachers)
    assert torch.allclose(
        patchify(net(student, teacher, 0.4, scores), patch),
        patchify(module.unpatchify(expected, patch, (5, 7)), patch),
        atol=1e-6,
    )


def test_gradients_go_where_the_student_stands_and_nowhere_else():
    net, (student, teacher) = neck(patch=2), maps(1, (6, 6))
    scores = torch.arange(9.0)[None]
    net(student, teacher, 0.5, scores).square().sum().backward()
    assert teacher.grad is None
    touched = patchify(student.grad, 2).abs().sum(2)[0] > 0
    assert touched.tolist() == [False] * 4 + [True] * 5


def test_the_sequence_holds_the_teacher_where_the_mask_is_one():
    net, (student, teacher) = neck(), maps(1, (3, 3))
    scores = torch.arange(9.0)[None]
    base = net(student, teacher, 0.5, scores)
    changed = student.detach().clone()
    changed[0, :, 0, :] += 5  # places 0 to 2: the teacher's
    assert torch.equal(net(changed, teacher, 0.5, scores), base)
    changed[0, :, 2, 2] += 5  # place 8: the student's
    assert not torch.equal(net(changed, teacher, 0.5, scores), base)


def test_every_position_of_the_answer_depends_on_the_hybrid():
    net, (student, teacher) = neck(), maps(1, (3, 3))
    rebuilt = net(student, teacher, 0.5, torch.arange(9.0)[None])
    for position in range(9):
        grad = torch.autograd.grad(
            rebuilt.flatten(2)[..., position].sum(), student, retain_graph=True
        )[0]
        assert grad.abs().sum() > 0


def test_gradient_by_finite_differences():
    net = neck(patch=2).double()
    student, teacher = (m.detach().double() for m in maps(1, (3, 4)))
    scores = torch.tensor([[0.1, 0.9, 0.2, 0.8]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda s: net(s, teacher, 0.5, scores), student.requires_grad_(), eps=1e-6, atol=1e-6
    )


@pytest.mark.parametrize('ratio', [0.0, 1.0])
def test_one_side_may_supply_all_tokens(ratio):
    net, (student, teacher) = neck(), maps()
    net(student, teacher, ratio, floor=False).sum().backward()
    assert bool(student.grad.abs().sum() > 0) == (ratio == 0.0)
    assert all(p.grad is not None for p in net.parameters())  # no unused parameters under DDP


def test_the_cost_of_an_encoder_falls_with_its_share():
    def cost(ratio):
        net, (student, teacher) = neck(), maps(1, (16, 16))
        with FlopCounterMode(display=False) as counter:
            net(student, teacher, ratio, torch.rand(1, 256))
        counts = counter.get_flop_counts()
        return [
            sum(counts[f'PriorInjection.{side}_encoder'].values())
            for side in ('student', 'teacher')
        ]

    (student_low, teacher_low), (student_high, teacher_high) = cost(0.25), cost(0.75)
    assert student_low == teacher_high
    assert student_high == teacher_low
    assert student_low > 2.9 * student_high


def test_any_size_without_new_parameters():
    net = neck(patch=4)
    for size in ((4, 9), (13, 5), (8, 8)):
        student, teacher = maps(1, size)
        assert net(student, teacher, 0.5).shape == teacher.shape


def test_a_student_of_another_size_is_resized():
    student, teacher = maps()
    small = torch.nn.functional.interpolate(student, (3, 3), mode='bilinear')
    up = torch.nn.functional.interpolate(small, (5, 7), mode='bilinear')
    scores = torch.rand(2, 35)
    assert torch.equal(neck()(small, teacher, 0.5, scores), neck()(up, teacher, 0.5, scores))


def test_positions_of_a_place_do_not_depend_on_the_grid():
    like = torch.zeros(1, 1, 16)
    small, large = positions((3, 4), like)[0], positions((6, 9), like)[0]
    assert torch.equal(small.unflatten(0, (3, 4)), large.unflatten(0, (6, 9))[:3, :4])
    assert len(small.unique(dim=0)) == 12


def test_the_full_rule_is_near_the_published_sizes():
    assert sizes_of('full', [256, 512], [1, 1]) == [
        {'encoder': (256, 4, 8), 'decoder': (256, 4, 8)},
        {'encoder': (512, 4, 8), 'decoder': (512, 4, 8)},
    ]
    assert sizes_of('full', [256] * 4, [4, 2, 1, 1]) == sizes_of(
        'retinanet', [256] * 4, [4, 2, 1, 1]
    )
    assert sizes_of('full', [256, 256], [4, 2]) == sizes_of('faster_rcnn', [256, 256], [4, 2])


def test_training_only_parameters_of_a_published_pair():
    """R34 -> R18: 64 million, as counted in the authors' code."""
    stages = [
        PriorInjection(c, c, 1, **size)
        for c, size in zip((256, 512), sizes_of('r34_r18', [256, 512], [1, 1]))
    ]
    count = sum(p.numel() for stage in stages for p in stage.parameters())
    assert count / 1e6 == pytest.approx(64, abs=1)


@pytest.mark.parametrize('name', module.PRESETS)
def test_every_preset_can_be_built(name):
    for size in module.PRESETS[name]:
        with torch.device('meta'):
            PriorInjection(4, 4, 1, **size)


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (lambda: PriorInjection(4, 4, encoder=(30, 1, 2)), 'width=30'),
        (lambda: PriorInjection(4, 4, encoder=(32, 0, 2)), 'depth=0'),
        (lambda: PriorInjection(4, 4, decoder=(36, 1, 8)), 'heads=8 do not divide the width 36'),
        (lambda: PriorInjection(4, 4, patch=0), 'patch=0'),
        (lambda: neck(patch=8)(*maps(1, (3, 4)), 0.5), 'the map 3x4 is a single token (patch=8)'),
        (lambda: neck()(*maps(1, (1, 1)), 0.5), 'the map 1x1 is a single token'),
        (lambda: sizes_of('ful', [4], [1]), "nearest: 'full'"),
        (lambda: sizes_of('r34_r18', [4], [1]), 'is for 2 stages, there are 1'),
        (lambda: sizes_of([dict(encodr=(4, 1, 1))], [4], [1]), "nearest: 'encoder'"),
    ],
)
def test_wrong_input_is_answered(make, words):
    with pytest.raises(InputError) as error:
        make()
    assert words in str(error.value)
