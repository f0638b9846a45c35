"""What a key of a training log is about: the sections of the report and of the table during training."""

from __future__ import annotations


def section_of(key: str) -> str:
    """Where a key of a training log is shown.

    >>> [section_of(k) for k in ('loss_cls', 'dpk/loss_relation', 'dpk/ratio.P3', 'dpk/lr', 'pkd/share')]
    ['task', 'terms', 'ratio', 'rates', 'shares']
    """
    method, _, own = key.rpartition('/')
    stem = own.split('.')[0]
    if own in ('lr', 'base_lr') or own.endswith('_lr'):
        return 'rates'
    if 'loss' in own:
        return 'terms' if method else 'task'
    if own == 'grad_norm':
        return 'gradient'
    if own in ('time', 'data_time', 'memory'):
        return 'cost'
    if not method:
        return 'other'
    for section, word in dict(weights='weight', shares='share').items():
        if word in own:
            return section
    return stem if stem in ('ratio', 'cka', 'samples') else 'statistics'
