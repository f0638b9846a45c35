"""Which of several teachers a method listens to."""

import helpers as h

from mmkd.core.listening import listens_to
from mmkd.methods import FRSKD, PKD

TEACHERS = dict(big='the one', small='the other')


def test_a_method_listens_to_the_teacher_that_it_names_or_the_only_one():
    assert listens_to('pkd', PKD(teacher='small'), TEACHERS) == 'small'
    assert listens_to('pkd', PKD(), dict(only='one')) == 'only'
    assert listens_to('frskd', FRSKD(), TEACHERS) is None


def test_what_does_not_fit_is_answered():
    assert h.message_of(listens_to, 'pkd', PKD(), TEACHERS) == (
        'methods.pkd: there are 2 teachers; say which one it listens to with '
        "teacher='NAME' (known: 'big', 'small')"
    )
    wrong = h.message_of(listens_to, 'pkd', PKD(teacher='bigg'), TEACHERS)
    assert wrong == "methods.pkd: unknown teacher 'bigg'; nearest: 'big'"
    assert 'needs a teacher and none is given' in h.message_of(listens_to, 'pkd', PKD(), {})
    own = h.message_of(listens_to, 'frskd', FRSKD(teacher='big'), TEACHERS)
    assert 'is a self-method and takes no teacher' in own
