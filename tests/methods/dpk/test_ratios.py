"""The ratio: strategies, guards, history, ranks."""

import math
from types import SimpleNamespace

import pytest
import torch
from rank_work import on_ranks, read_in_turn

from mmkd.core.readings import Reading, Readings
from mmkd.errors import InputError
from mmkd.losses.cka import cka, cka_of_terms, hsic_terms
from mmkd.losses.sketch import hsic_terms_of_sketches, sketch
from mmkd.methods.dpk.ratios import CKARatio, build_ratio


def pair(n=8, noise=0.5, seed=0, size=4, channels=6, kinds=0):
    """Maps of images, unrelated or of some kinds in turn."""
    rng = torch.Generator().manual_seed(seed)
    shape = n, channels, size, size
    teacher = torch.randn(shape, generator=rng)
    if kinds:
        teacher += torch.randn(kinds, *shape[1:], generator=rng)[torch.arange(n) % kinds]
    return teacher + noise * torch.randn(shape, generator=rng), teacher


def read(ratio, *pairs, progress=0.0, seed=0):
    return ratio(list(pairs), progress, torch.Generator().manual_seed(seed))


def test_the_ratio_is_one_minus_the_alignment():
    near, far = pair(noise=0.5), pair(noise=1.5)
    readings = read(CKARatio(), near, far)
    for reading, (s, t) in zip(readings, (near, far)):
        assert reading.ratio == pytest.approx(1 - cka(s, t).item(), abs=1e-12)
        assert reading.cka == pytest.approx(cka(s, t).item(), abs=1e-12)
        assert reading.samples == 8
    assert readings[1].ratio > readings[0].ratio


def test_large_maps_are_read_from_sketches_and_whole_ones_on_request():
    large = pair(channels=48, size=24, kinds=3)
    short, whole = (read(CKARatio(exact=exact), large)[0].cka for exact in (False, True))
    assert whole == cka(*large).item()
    sketches = [sketch(side, 8192) for side in large]
    assert short == cka_of_terms(hsic_terms_of_sketches(*sketches)).item()
    assert short != whole


def test_an_alignment_of_sketches_is_never_above_one():
    readings = [
        read(CKARatio(), pair(4, noise=0.0, seed=s, channels=48, size=24)) for s in range(8)
    ]
    assert max(r.cka for (r,) in readings if r.cka is not None) == 1


def test_what_is_remembered_of_large_maps_takes_little_room():
    ratio = CKARatio()
    for seed in range(4):
        read(ratio, pair(2, seed=seed, channels=256, size=100))
    kept = [side for sides in ratio.state()[1][0][0] for side in sides]
    assert sum(side.nbytes for side in kept) == 2 * 3 * 2 * 8192 * 4  # sides, batches, images


def test_sketches_keep_the_length_that_suits_the_first_batch():
    ratio = CKARatio()
    read(ratio, pair(32))
    read(ratio, pair(4))
    assert ratio.state()[0] == 4096


@pytest.mark.parametrize(
    ('student', 'expected'),
    [
        (lambda t: t, 0.1),
        (lambda t: torch.ones_like(t), 0.8),
        (lambda t: torch.full_like(t, math.inf), 0.8),
        (lambda t: pair(seed=5)[1], 0.8),
    ],
    ids=['equal', 'constant', 'infinite', 'unrelated'],
)
def test_guards(student, expected):
    teacher = pair()[1]
    assert read(CKARatio(), (student(teacher), teacher))[0].ratio == pytest.approx(expected)


def test_two_images_at_a_time_give_the_alignment_of_the_last_eight():
    student, teacher = pair(12)
    ratio = CKARatio()
    seen = [read(ratio, (student[i : i + 2], teacher[i : i + 2]))[0] for i in range(0, 12, 2)]
    assert [reading.samples for reading in seen] == [2, 4, 6, 8, 8, 8]
    assert seen[0].ratio == 0.8
    assert seen[0].cka is None
    for step, reading in enumerate(seen[1:], 1):
        last = slice(max(0, 2 * step - 6), 2 * step + 2)
        expected = cka(student[last], teacher[last]).item()
        assert reading.cka == pytest.approx(expected, abs=1e-12)


def test_history_is_kept_only_as_far_as_it_is_needed():
    ratio = CKARatio(samples=8)
    for seed in range(5):
        read(ratio, pair(3, seed=seed))
    assert [len(s) for s, _ in ratio.state()[1][0][0]] == [3, 3]
    read(ratio, pair(8))
    assert ratio.state()[1][0][0] == []


def test_history_of_other_map_sizes_is_padded():
    ratio = CKARatio()
    small, large = pair(4, size=3), pair(4, size=5)
    read(ratio, small)
    padded = [torch.nn.functional.pad(m, (0, 2, 0, 2)) for m in small]
    expected = cka(*(torch.cat([p, m]) for p, m in zip(padded, large))).item()
    assert read(ratio, large)[0].cka == pytest.approx(expected, abs=1e-12)


def test_terms_are_averaged_over_iterations():
    pairs = [pair(seed=s) for s in range(3)]
    ratio = CKARatio(batches=2)
    last = [read(ratio, p)[0] for p in pairs][-1]
    xy, xx, yy = torch.stack([hsic_terms(*p) for p in pairs[1:]]).mean(0)
    assert last.cka == pytest.approx((xy / (xx * yy).sqrt()).item(), abs=1e-12)
    assert last.samples == 16


def test_terms_fade_with_momentum():
    pairs = [pair(seed=s) for s in range(3)]
    ratio = CKARatio(momentum=0.5)
    last = [read(ratio, p)[0] for p in pairs][-1]
    faded = sum(0.5 ** (2 - s) * hsic_terms(*p) for s, p in enumerate(pairs))
    xy, xx, yy = faded.tolist()
    assert last.cka == pytest.approx(xy / math.sqrt(xx * yy), abs=1e-12)
    assert last.samples == 14  # 8 (1 + 1/2 + 1/4)


@pytest.mark.parametrize('options', [dict(batches=2), dict(momentum=0.9)], ids=str)
def test_a_resumed_ratio_goes_on_as_if_it_had_not_stopped(options):
    first, second = CKARatio(**options), CKARatio(**options)
    for seed in range(3):
        read(first, pair(3, seed=seed))
    second.resume(first.state())
    assert read(first, pair(3, seed=9)) == read(second, pair(3, seed=9))


def test_what_has_begun_with_whole_maps_goes_on_with_them():
    large = [pair(4, seed=seed, channels=48, size=24, kinds=2) for seed in range(2)]
    whole, ratio = CKARatio(exact=True), CKARatio()
    read(whole, large[0])
    ratio.resume(whole.state()[1])  # as versions without sketches have saved it
    expected = cka(*(torch.cat(sides) for sides in zip(*large))).item()
    assert read(ratio, large[1])[0].cka == pytest.approx(expected, abs=1e-12)
    again = CKARatio()
    again.resume(ratio.state())
    assert again.exact


class OneLater(Readings):
    """Tells on the CPU, too, what was given the time before."""

    def __call__(self, names, numbers):
        told = self.rest()
        self._waiting = Reading(list(names), numbers, SimpleNamespace(synchronize=lambda: None))
        return told


def test_a_resumed_ratio_knows_what_was_on_its_way_from_a_device():
    first, second = CKARatio(), CKARatio()
    for ratio in (first, second):
        ratio._alignments = OneLater()
    pairs = [pair(seed=seed) for seed in range(3)]
    assert read(first, pairs[0])[0].ratio == 0.8
    second.resume(first.state())
    for ratio in (first, second):
        assert read(ratio, pairs[1])[0].cka == pytest.approx(cka(*pairs[0]).item(), abs=1e-12)
    assert read(first, pairs[2]) == read(second, pairs[2])


@pytest.mark.parametrize(
    ('spec', 'at', 'expected'),
    [
        (0.3, 0.7, 0.3),
        (dict(type='fixed', value=1.0), 0.0, 1.0),
        ('linear', 0.25, 0.9 - 0.25 * 0.8),
        (dict(type='exponential', start=0.8, end=0.2), 0.5, 0.4),
        ('cosine', 0.25, 0.9 - 0.8 * 0.5 * (1 - math.cos(math.pi / 4))),
    ],
)
def test_strategies_over_progress(spec, at, expected):
    assert read(build_ratio(spec), pair(), progress=at)[0].ratio == pytest.approx(expected)


def test_uniform_draws_from_the_generator_it_is_given():
    ratio = build_ratio(dict(type='uniform', low=0.2, high=0.4))
    draws = torch.rand(2, generator=torch.Generator().manual_seed(3))
    readings = read(ratio, pair(), pair(), seed=3)
    assert [r.ratio for r in readings] == pytest.approx((0.2 + 0.2 * draws).tolist())


@pytest.mark.parametrize(
    ('spec', 'words'),
    [
        (1.5, 'fixed: value=1.5; needed: a finite number in [0, 1]'),
        (-0.1, 'fixed: value=-0.1'),
        ('ckaa', "unknown strategy 'ckaa'; nearest: 'cka'"),
        (dict(type='linear', begin=0.1), "unknown option 'begin'"),
        (dict(type='cka', samples=3), 'cka: samples=3; needed: a whole number >= 4'),
        (dict(type='exponential', end=0.0), 'both above 0'),
        (dict(type='cka', momentum=1.0), 'momentum=1.0, batches=1; needed: a momentum below 1'),
        (dict(type='cka', momentum=0.9, batches=4), 'momentum=0.9, batches=4'),
    ],
)
def test_wrong_ratios_are_answered(spec, words):
    with pytest.raises(InputError) as error:
        build_ratio(spec)
    assert words in str(error.value)


def test_one_image_without_history_is_answered():
    with pytest.raises(InputError, match='1 images in the batch of all ranks, and history=False'):
        read(CKARatio(history=False), pair(1))


@pytest.mark.parametrize(
    'shape', [dict(), dict(channels=48, size=24, kinds=3)], ids=['small', 'large']
)
def test_two_ranks_read_what_one_process_reads_of_the_global_batch(tmp_path, shape):
    student, teacher = pair(12, **shape)
    first, second = on_ranks(read_in_turn, tmp_path, student, teacher)
    assert first == second
    ratio = CKARatio()
    alone = [read(ratio, (student[i : i + 4], teacher[i : i + 4]))[0] for i in (0, 4, 8)]
    for ours, one in zip(first, alone):
        assert ours == pytest.approx((one.ratio, one.cka, one.samples), abs=1e-6)
    assert math.isfinite(first[3][1])
