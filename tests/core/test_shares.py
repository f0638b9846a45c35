"""Gradient shares, and weights by them: against gradients at features measured by hand."""

import math

import helpers as h
import pytest
import torch

from mmkd import InputError, Method, Tap
from mmkd.core import shares
from mmkd.core.shares import EARLY, SHARE, GradientShare, Shares, gradient_norms


def norms(**ratios):
    """What is measured if the task pulls so many times as strongly as each term."""
    return {term: (ratio, 1.0) for term, ratio in ratios.items()}


def test_norms_are_those_of_autograd_at_the_features_that_a_term_reaches():
    x, y = (torch.randn(3, 4, requires_grad=True) for _ in 'xy')
    task = (x * y.sigmoid()).sum()
    terms = {'one': x.pow(3).sum(), 'both': (x + 2 * y).square().sum(), 'none': torch.ones(())}
    found = gradient_norms(task, terms, [x, y])
    pulls = torch.autograd.grad(task, [x, y], retain_graph=True)
    assert found['one'][0] == pytest.approx(pulls[0].norm().item(), rel=1e-5)
    assert found['one'][1] == pytest.approx((3 * x.square()).norm().item(), rel=1e-5)
    assert found['both'][0] == pytest.approx(torch.cat(pulls).norm().item(), rel=1e-5)
    own = torch.cat([2 * (x + 2 * y), 4 * (x + 2 * y)])
    assert found['both'][1] == pytest.approx(own.norm().item(), rel=1e-5)
    assert found['none'] == (0.0, 0.0)


def test_weights_are_free_at_first_and_slow_afterwards():
    share = GradientShare(0.2, every=4, first=2)
    measured = []
    for ratio in (10.0, 40.0, 1e3, 1e3, 1e3, 20.0, 1e3, 1e3, 1e3, 2000.0):
        if share.advance():
            measured.append(share.seen)
            share.learn(norms(loss=ratio), 0.2)
        if share.seen in (1, 2, 6):
            wanted = {1: 2.0, 2: 0.2 * 20.0, 6: 0.2 * 20.0}[share.seen]
            assert share.factors(['loss'])['loss'] == pytest.approx(wanted)
    assert measured == [1, 2, 6, 10]
    # the memory is then sqrt(20 * 2000), ten times as much as before; the weight goes half of the way
    assert share.factors(['loss'])['loss'] == pytest.approx(4 * math.sqrt(10))


@pytest.mark.parametrize(
    ('change', 'moves'), [(1.2, False), (0.85, False), (1.3, True), (0.7, True)]
)
def test_inside_the_band_a_weight_stays(change, moves):
    share = GradientShare(0.1, every=1, first=1)
    for ratio in (10.0, 10.0 * change**2):  # what is remembered moves half of that
        assert share.advance()
        share.learn(norms(loss=ratio), 0.1)
    expected = math.sqrt(change) if moves else 1.0
    assert share.factors(['loss'])['loss'] == pytest.approx(expected)


def test_several_terms_have_their_own_weights_and_a_batch_without_gradient_tells_nothing():
    share = GradientShare(0.1)
    assert share.advance()
    share.learn(norms(loss_a=10.0, loss_b=1.0) | {'loss_c': (5.0, 0.0), 'loss_d': (0.0, 5.0)}, 0.1)
    expected = {'loss_a': 0.25, 'loss_b': 0.025, 'loss_c': 0.0, 'loss_d': 0.0}
    assert share.factors(expected) == pytest.approx(expected)


def test_a_resumed_share_goes_on():
    one, two = GradientShare(first=3, every=2), GradientShare(first=3, every=2)
    for share, ratios in ((one, (1.0, 2.0, 3.0, 4.0, 50.0)), (two, (1.0, 2.0))):
        for ratio in ratios:
            if share.advance():
                share.learn(norms(loss=ratio), 0.1)
    again = GradientShare(first=3, every=2)
    again.resume(two.state())
    for ratio in (3.0, 4.0, 50.0):
        if again.advance():
            again.learn(norms(loss=ratio), 0.1)
    assert again.state() == one.state()


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(target=-0.1), 'target=-0.1'),
        (dict(every=0), 'every=0; needed: a whole number >= 1'),
        (dict(low=1.0), 'low=1.0; needed: below 1'),
        (dict(high=0.9), 'high=0.9; needed: a finite number above 1'),
    ],
)
def test_wrong_options_are_answered(options, words):
    share = dict(type='GradientShare', **options)
    with pytest.raises(InputError) as error:
        h.distiller(h.classifier(), h.classifier(), pkd=dict(type='mmkd.PKD', weight=share))
    assert words in str(error.value)


# -- in a Distiller -------------------------------------------------------------------------------


def measured_shares(model, losses, name, terms):
    """Each weighted term's gradient over the task's, at the method's taps, by hand."""
    tapped = model.seen
    task = sum(v.sum() if torch.is_tensor(v) else sum(v).sum() for k, v in losses.items()
               if 'loss' in k and not k.startswith(name))  # fmt: skip
    pull = torch.autograd.grad(task, tapped, retain_graph=True, allow_unused=True)
    found = {}
    for term in terms:
        own = torch.autograd.grad(
            losses[f'{name}/{term}'], tapped, retain_graph=True, allow_unused=True
        )
        both = [(p, o) for p, o in zip(pull, own) if o is not None]
        lengths = [torch.cat([x.flatten() for x in side]).norm().item() for side in zip(*both)]
        found[term] = lengths[1] / lengths[0]
    return found


def watch(model, method):
    """Keep what passes at the method's taps."""
    forward = method.forward

    def noting(step):
        model.seen = [t for tap in method.student_taps for t in step.student[tap]]
        return forward(step)

    method.forward = noting


@pytest.mark.parametrize(
    ('family', 'method', 'share', 'terms'),
    [
        ('classifier', dict(type='mmkd.PKD'), SHARE, ['loss']),
        ('retinanet', dict(type='mmkd.PKD'), SHARE, ['loss']),
        ('classifier', dict(type='mmkd.KD'), 3.0, ['loss']),
        ('retinanet', dict(type='mmkd.KD'), 1.0, ['loss']),
        ('classifier', dict(type='mmkd.DPK', size='light', optimizer=None), 10.0,
         ['loss_layer3', 'loss_layer4', 'loss_logits']),
    ],
)  # fmt: skip
def test_the_gradient_at_the_taps_is_the_wanted_share_of_the_tasks(family, method, share, terms):
    config = h.FAMILIES[family]
    student, teacher = config(), config()
    model = h.distiller(student, teacher, kd=dict(weight='auto', **method))
    h.freeze_statistics(model)
    own = model.distillation.methods['kd']
    watch(model, own)
    losses = h.losses_of(model, family)
    assert {name[3:] for name in losses if name.startswith('kd/loss')} == set(terms)
    shares = measured_shares(model, losses, 'kd', terms)
    assert shares == pytest.approx(dict.fromkeys(terms, share / len(terms)), rel=1e-3)
    weights = {name for name in losses if name.startswith('kd/weight')}
    assert weights == {f'kd/{term.replace("loss", "weight")}' for term in terms}


def test_a_schedule_of_the_share_turns_the_method_on_and_off():
    ramp = dict(type='GradientShare', target=dict(type='CutOff', value=0.1, at=0.5))
    model = h.distiller(h.classifier(), h.classifier(), pkd=dict(type='mmkd.PKD', weight=ramp))
    method = model.distillation.methods['pkd']
    assert (method.weight(0.2), method.weight(0.7)) == (0.1, 0.0)


def test_without_gradient_nothing_is_measured():
    model = h.distiller(h.classifier(), h.classifier(), pkd=dict(type='mmkd.PKD', weight='auto'))
    with torch.no_grad():
        losses = h.losses_of(model, 'classifier')
    assert losses['pkd/loss'].item() == 0
    assert model.distillation.methods['pkd'].share.state()['weights'] == {}


class Constant(Method):
    """Its loss knows nothing of the student."""

    needs_teacher = False

    def plan(self, student, teacher):
        self.student_taps = [Tap('backbone')]

    def forward(self, step):
        return {'loss': step.inputs.new_ones(())}


def test_a_term_without_gradient_keeps_weight_zero():
    model = h.distiller(h.classifier(), own=dict(type=Constant, weight='auto'))
    assert h.losses_of(model, 'classifier')['own/loss'].item() == 0


@pytest.mark.parametrize('method', ['FRSKD', 'SFR'])
def test_methods_with_ramps_of_their_own_are_refused(method):
    with pytest.raises(
        InputError, match=f"{method}: weight='auto': its terms have ramps of their own"
    ):
        h.distiller(h.classifier(), own=dict(type=f'mmkd.{method}', weight='auto'))


# -- measured for every method ----------------------------------------------------------------------


@pytest.mark.parametrize('family', ['classifier', 'retinanet'])
@pytest.mark.parametrize(
    'method', [dict(type='mmkd.PKD', weight=3.0), dict(type='mmkd.KD', weight=0.5), dict(type='mmkd.VFM')]
)  # fmt: skip
def test_a_share_is_the_methods_part_of_both_gradients_at_its_taps(family, method):
    config = h.FAMILIES[family]
    model = h.distiller(config(), h.widened(config()), own=method, kd=dict(type='mmkd.KD'))
    watch(model, model.distillation.methods['own'])
    losses = h.losses_of(model, family, shares=True)
    task = torch.stack([t.sum() for k, v in losses.items() if 'loss' in k and '/' not in k
                        for t in (v if isinstance(v, list) else [v])]).sum()  # fmt: skip
    mine = sum(v for k, v in losses.items() if k.startswith('own/loss'))
    lengths = []
    for loss in (mine, task):
        found = torch.autograd.grad(loss, model.seen, retain_graph=True, allow_unused=True)
        lengths.append(torch.cat([g.flatten() for g in found if g is not None]).norm().item())
    assert losses['own/share'].item() == pytest.approx(lengths[0] / sum(lengths), rel=1e-4)
    assert 0 < losses['own/share'] < 1
    assert losses['kd/share'] != losses['own/share']
    assert not losses['own/share'].requires_grad


def test_it_is_measured_early_then_seldom_and_holds_in_between():
    share, x, seen = Shares(), torch.ones(1, requires_grad=True), []
    for iteration in range(1, 251):
        names = ['a'] if iteration < 133 else ['a', 'late']
        if share.due(names):
            seen.append(iteration)
            terms = {f'{name}/loss': iteration * x.sum() for name in names}
            share.measure({'loss_cls': x.sum()}, terms, {name: [x] for name in names})
        held = {name: pytest.approx(seen[-1] / (seen[-1] + 1)) for name in names}
        assert share.of(names) == {f'{name}/share': value for name, value in held.items()}
    assert seen == [*EARLY, 100, 133, 200]


def gradients(config, every):
    model = h.distiller(
        config(), h.widened(config()), pkd=dict(type='mmkd.PKD'), kd=dict(type='mmkd.KD')
    )
    model.distillation.shares.every = every
    found = h.losses_of(model, 'retinanet', shares=True)
    model.parse_losses(found)[0].backward()
    return found, [p.grad for p in model.parameters() if p.grad is not None]


def test_measuring_changes_no_bit_of_training():
    measured, ours = gradients(h.retinanet, 1)
    plain, theirs = gradients(h.retinanet, 0)
    assert measured.keys() - plain.keys() == {'pkd/share', 'kd/share'}
    assert all(a.equal(b) for a, b in zip(ours, theirs))


def test_where_nothing_can_be_compared_there_is_no_share():
    model = h.distiller(h.classifier(), h.classifier(), pkd=dict(type='mmkd.PKD'), labels=False)
    assert 'pkd/share' not in h.losses_of(model, 'classifier', shares=True)
    share, x = Shares(), torch.ones(2, requires_grad=True)
    share.measure(
        {'loss': x.sum()}, {'a/loss': x.sum(), 'b/loss': x.sum()}, {'a': [x.clone()], 'b': [x]}
    )
    assert [*share.of(['a', 'b'])] == ['b/share']
    assert [share.due(['a', 'b']) for _ in range(2)] == [True, False]  # a is not tried anew
    share.measure({'loss': 0 * x.sum()}, {'b/loss': 0 * x.sum()}, {'b': [x]})
    assert share.of(['b'])['b/share'] == 0


def test_in_half_precision_small_gradients_count():
    x = torch.ones(4, dtype=torch.float16, requires_grad=True)
    share = Shares()
    share.measure(
        {'loss': (1e-8 * x.float()).sum()}, {'a/loss': (3e-8 * x.float()).sum()}, {'a': [x]}
    )
    assert share.of(['a'])['a/share'].item() == pytest.approx(0.75, rel=0.05)


def test_a_network_whose_backward_pass_cannot_be_run_in_parts_trains_without(monkeypatch):
    said = []
    monkeypatch.setattr(shares, 'print_log', lambda text, *rest: said.append(text))
    student = h.classifier()
    student.backbone.with_cp = True
    tap = dict(type='mmkd.FitNet', tap='backbone.layer1', weight=1.0)
    model = h.distiller(student, h.widened(h.classifier()), fitnet=tap)
    model.train()
    model.distillation.shares.every = 1
    for _ in range(2):
        losses = h.losses_of(model, 'classifier', shares=True)
        model.parse_losses(losses)[0].backward()
    assert 'fitnet/share' not in losses
    assert len(said) == 1
    assert said[0].startswith('gradient shares are not measured: ')


def test_a_resumed_measurement_goes_on():
    one, two, x = Shares(), Shares(), torch.ones(1, requires_grad=True)
    for share, last in ((one, 14), (two, 12)):
        for iteration in range(1, last):
            if share.due(['a']):
                share.measure({'loss': x.sum()}, {'a/loss': iteration * x.sum()}, {'a': [x]})
    again = Shares()
    again.resume(two.state())
    assert not again.due(['a'])
    assert not again.due(['a'])
    assert again.state() == one.state()


def test_how_often_is_an_option():
    with pytest.raises(InputError, match=r'share_every=-1; needed: a whole number >= 0'):
        h.build(dict(type='mmkd.Distiller', student=h.classifier(), methods={}, share_every=-1,
                     _scope_='mmkd'))  # fmt: skip
