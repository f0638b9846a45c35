"""Every key that training logs has its place."""

import pytest

from mmkd.commands.live import BLOCKS
from mmkd.commands.report.charts import SECTIONS
from mmkd.commands.sections import section_of

KEYS = {
    'lr': 'rates', 'base_lr': 'rates', 'dpk/lr': 'rates', 'loss': 'task', 'loss_rpn_cls': 'task',
    'decode.loss_ce': 'task', 'dpk/loss_relation': 'terms', 'kd/weight': 'weights',
    'dpk/weight_relation': 'weights', 'kd/share': 'shares', 'dpk/ratio.P3': 'ratio', 'dpk/cka.P3': 'cka',
    'dpk/samples.P3': 'samples', 'sfr/entropy': 'statistics', 'grad_norm': 'gradient', 'time': 'cost',
    'memory': 'cost', 'acc': 'other', 'decode.acc_seg': 'other',
}  # fmt: skip


@pytest.mark.parametrize(('key', 'section'), KEYS.items())
def test_where_a_key_goes(key, section):
    assert section_of(key) == section


def test_every_section_is_used():
    assert SECTIONS.keys() - set(KEYS.values()) == {'score', 'metrics'}
    assert BLOCKS.keys() <= SECTIONS.keys()
