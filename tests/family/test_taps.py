import pytest
import torch
from torch import nn

from mmkd import InputError, Tap
from mmkd.family.taps import Features, capture, flatten, parse_taps


class Pyramid(nn.Module):
    """Gives levels, is called by ``forward``, and overwrites one of its tensors."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.down = nn.AvgPool2d(2)
        self.head = nn.Conv2d(4, 2, 1)
        self.passed_head = 0

    def forward(self, x):
        x = self.stem(x)
        levels = (x, self.down(x), self.down(self.down(x)))
        scores = [self.head.forward(level) for level in levels]
        self.passed_head += 1
        x.relu_()
        return levels, scores


@pytest.fixture
def net():
    return Pyramid()


X = torch.randn(2, 3, 8, 8)


def test_output_input_and_repeated_calls_are_seen(net):
    places = [('stem', 'input'), ('stem', 'output'), ('head', 'output')]
    with capture(net, places) as features:
        _, scores = net(X)
    assert features[Tap('stem', source='input')][0] is X
    assert all(a is b for a, b in zip(features[Tap('head')], scores))
    assert features.counts() == {('stem', 'input'): 1, ('stem', 'output'): 1, ('head', 'output'): 3}


def test_what_a_training_model_tries_without_gradients_is_not_read(net):
    with capture(net, [('stem', 'output')]) as features:
        with torch.no_grad():
            net(2 * X)
        levels, _ = net(X)
    assert features.counts() == {('stem', 'output'): 1}
    assert features[Tap('stem')][0] is levels[0]
    with torch.no_grad(), capture(net, [('stem', 'output')]) as features:
        net(X)
    assert features.counts() == {('stem', 'output'): 1}


def test_levels_and_item_pick(net):
    wrapper = nn.ModuleDict(dict(net=net))
    with capture(wrapper, [('net', 'output')]) as features:
        levels, scores = net(X)
    assert len(features[Tap('net')]) == 6
    assert features[Tap('net', item=1, levels=(2, 0))] == [scores[2], scores[0]]
    assert features[Tap('net', item=0, levels=(-1,))][0] is levels[-1]


def test_what_a_module_is_called_with_is_known_by_name():
    class Sum(nn.Module):
        def forward(self, first, second, mask=None):
            return first + second

    net = nn.Sequential(Sum())
    with capture(net, [('0', 'call')]) as features:
        net[0](X, second=X + 1, mask=None)
    assert [*features.calls(Tap('0', source='call'))[0]] == ['first', 'second', 'mask']
    assert torch.equal(features[Tap('0', item='second', source='call')][0], X + 1)
    assert features[Tap('0', item='mask', source='call')] == []


def test_the_model_is_left_as_it_was_found(net):
    own = net.down.forward
    net.down.forward = own  # somebody's instance attribute
    before = {name: dict(vars(module)) for name, module in net.named_modules()}
    with capture(net, [('stem', 'output'), ('down', 'output')]):
        net(X)
    for name, module in net.named_modules():
        assert set(vars(module)) == set(before[name])
    assert vars(net.down)['forward'] == own


def test_the_forward_ends_when_all_have_answered(net):
    until = {('head', 'output'): 2}
    with capture(net, [('head', 'output')], until=until) as features:
        net(X)
        raise AssertionError('not reached')
    assert features.counts() == until
    assert net.passed_head == 0


def test_an_overwritten_tensor_is_noticed_and_can_be_copied(net):
    with capture(net, [('stem', 'output')]) as features:
        net(X)
    assert features.overwritten() == {('stem', 'output')}
    with capture(net, [('stem', 'output')], copied={('stem', 'output')}) as features:
        net(X)
    assert features.overwritten() == set()
    assert torch.equal(features[Tap('stem')][0], net.stem(X))


def test_flatten_keeps_order_and_leaves_out_the_rest():
    a, b, c = torch.zeros(3)
    assert [id(t) for t in flatten((a, {'x': [b, None, 3]}, [c]))] == [id(a), id(b), id(c)]


@pytest.mark.parametrize(
    ('spec', 'words'),
    [
        (3, ['3', 'module name']),
        (dict(levels=[1]), ['levels', 'module name']),
        (dict(at='neck', level=[1]), ["'neck'", "'level'", "'levels'"]),
        (dict(at='neck', levels=[0.7, 1.2]), ["tap 'neck': levels=[0.7, 1.2]", 'whole numbers']),
        (dict(at='neck', levels='0,1'), ["levels='0,1'", '[0, 1]']),
        (dict(at='neck', levels=['a']), ["levels=['a']"]),
        (dict(at='neck', levels=[True]), ['levels=[True]']),
        (dict(at='neck', levels=1), ['levels=1', 'a list']),
        (dict(at='neck', levels=[]), ['levels=[]']),
        (dict(at='neck', item='x'), ["item='x'", 'a whole number']),
        (dict(at='neck', source='outptu'), ["source='outptu'; nearest: 'output'"]),
        ([], ['tap: []', 'one module name']),
    ],
)
def test_wrong_taps_are_named(spec, words):
    with pytest.raises(InputError) as error:
        parse_taps(spec)
    assert all(word in str(error.value) for word in words)


def test_unknown_module_is_answered_with_the_nearest(net):
    with pytest.raises(InputError, match=r"unknown tap 'steem'.*nearest: 'stem'"):
        capture(net, [('steem', 'output')]).__enter__()


def test_level_and_item_out_of_range_are_named(net):
    features = Features('the student')
    features.add(('net', 'output'), (torch.zeros(1), torch.zeros(1)))
    with pytest.raises(InputError, match=r"'net': levels \[0, 2\]: 2 is out.*has 2 levels"):
        features[Tap('net', levels=(0, 2))]
    with pytest.raises(InputError, match=r"'net': item=5; the student gives 2 items"):
        features[Tap('net', item=5)]


def test_a_module_that_did_not_run_is_named(net):
    with capture(net, [('down', 'output')]) as features:
        net.stem(X)
    with pytest.raises(InputError, match=r"'down'.*did not run"):
        features[Tap('down')]
