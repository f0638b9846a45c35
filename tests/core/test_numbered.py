"""How many training images there are, which one a sample is, and what says neither."""

import helpers as h
import pytest

from mmkd import InputError
from mmkd.core.numbered import NumberedMethod


def samples():
    return h.raw_batch('classifier', sizes=((64, 64),) * 3)['data_samples']


def test_numbers_are_those_of_the_samples():
    assert NumberedMethod(images=3).numbers(samples()).tolist() == [0, 1, 2]


def test_what_says_no_numbers_is_answered():
    with pytest.raises(InputError, match=r'how many training images there are .* images=.*Hook'):
        NumberedMethod().numbers(samples())
    with pytest.raises(InputError, match='images=2: there is an image of number 2'):
        NumberedMethod(images=2).numbers(samples())
    unnumbered = samples()
    del unnumbered[1].sample_idx
    with pytest.raises(InputError, match=r'the samples do not say .*sample_idx.*PackInputs'):
        NumberedMethod(images=3).numbers(unnumbered)


def test_joined_data_is_answered_unless_images_are_given():
    joined = type('ConcatDataset', (list,), {})([1, 2, 3])
    with pytest.raises(InputError, match='the training data is a ConcatDataset'):
        NumberedMethod().learn_data(joined)
    for given, data, right in ((None, [1, 2, 3, 4], 4), (7, joined, 7)):
        method = NumberedMethod(images=given)
        method.learn_data(data)
        assert method.images == right


def test_a_checkpoint_of_other_data_is_answered():
    NumberedMethod(images=3).refuse_other_count(3)
    with pytest.raises(InputError, match='images=3: the checkpoint remembers 4 images'):
        NumberedMethod(images=3).refuse_other_count(4)
