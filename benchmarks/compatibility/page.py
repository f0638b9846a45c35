"""The page of the sweep's results: docs/compatibility.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

from sweep import METHODS, RESULTS, rows_of

REASONS = {
    r'^ok$': 'yes',
    r"'CPU'|cpu not found|not compiled with CUDA": 'an operator has no implementation for the CPU',
    r'multi-modal dependencies': 'needs the packages of mmpretrain[multimodal]',
    r'cannot be downloaded|urlopen|resolve|HTTP|Max retries': 'needs weights from the network',
    r"'NoneType' object has no attribute 'loss'": 'a backbone without a head: nothing is trained',
    r'data_preprocessor.py:498': 'semi-supervised: takes labelled and unlabelled images in branches',
    r"no attribute 'mask'|4D input|'list' object has no|simclr|6 channels": (
        'self-supervised: takes several views or masks of an image, and no labels'
    ),
    r"doesn't support (to train|training)": 'its head is for distilled models, which mmpretrain cannot train',
    r"^KeyError: 'model'|KeyError: 'test_pipeline'": 'no config of a model that mmengine can read',
    r'not in the mmdet::model registry': 'names a class that mmdet lacks',
    r'track processor|trackprocessor|TrackDataSample': 'a tracker or segmentor of videos: takes several frames',
    r'lap is not installed': 'needs the package lap',
    r'sklearn|fairscale|timm|transformers is not|required packages': 'needs another package',
    r'KnowledgeDistillation': 'a distillation already, whose teacher is a file of the source folder of mmdet',
    r'reid|linear.py': 'takes images of one size only',
    r'san_head': 'its init_weights fails without downloaded weights',
    r'lazy_import': 'its files are of two styles, which mmengine does not mix',
    r'list_eval_partition': "its prediction reads the data set's prototypes",
    r'upper bound and lower bound inconsistent': (
        'with random weights all its boxes lie beside the image, and the toolbox pastes no mask there'
    ),
    r"can't allocate memory": 'more memory than an attempt may have',
    r"SSDHead.*'loss_cls'": "SSD's prediction has a defect in this mmdet",
}
"""What answers mean, by a pattern in them."""
MISFITS = {
    r'is for sigmoid classes': 'softmax classes',
    r'has sigmoid classes': 'sigmoid classes',
    r'is for a dense head': 'no dense head',
    r'boxes told by bins': 'no bins',
    r'no head with class logits|no map of class logits': 'no class logits',
    r'no tower of convolutions': 'no towers',
    r'by anchor or point|no map of scores': 'no maps of class scores alone',
    r'queries of its own': 'boxes come with queries',
    r'a single level': 'a single map',
    r'the maps of .* grow': 'maps that grow',
    r'does none of': 'no labels of a task',
    r"tap 'head': the module exists but": 'logits in its loss alone',
    r"tap 'backbone.stages": 'stages that are lists',
    r'num_classes=None': 'a head that tells no classes',
}
"""Why a method refuses a family, in short."""
INTRODUCTION = (
    'One config of each folder (one that is named like a small one, where there is one), two drawn images,\n'
    "random weights, one CPU thread: loss, backward and predict by each method with the family's own model as\n"
    'the teacher; where that fails, the toolbox alone. Synchronised norms became plain ones, weights were not\n'
    'downloaded, batches were not enlarged, and a sampler drew at most 50 boxes. Prediction is tried\n'
    'alone and with `pkd`. "no: ..." is what a method refuses in one sentence, before training; an empty cell\n'
    'was not tried. Written by `benchmarks/compatibility/sweep.py table` on {date}.\n'
)
PROJECTS = {'mmdet': 'mmdet', 'mmpretrain': 'mmpretrain', 'mmseg': 'mmsegmentation'}


def table() -> Iterator[str]:
    """The page of the results."""
    yield '# Which families train\n'
    yield INTRODUCTION.format(date=date.today())
    for path in sorted(RESULTS.glob('*.jsonl')):
        configs: dict[str, dict[str, str]] = {}
        for row in rows_of(path):
            configs.setdefault(row['config'], {})[row['method']] = row['answer']
        firsts = list({config.split('/')[0]: config for config in reversed(list(configs))}.values())
        yield f'## {PROJECTS[path.stem]}\n'
        yield from section({config: configs[config] for config in sorted(firsts)}, 'folders')
        others = {config: by for config, by in configs.items() if config not in firsts}
        if others:
            yield '### Other configs: the smallest, the largest, other tasks\n'
            yield from section(others, 'configs')


def section(configs: dict[str, dict[str, str]], what: str) -> Iterator[str]:
    """How many trained, a table of those, and why the others do not train alone."""
    trained = {c: by for c, by in configs.items() if by.get('alone', 'ok').startswith('ok')}
    methods = [m for m in METHODS if any(m in by for by in configs.values())]
    told = {m: [short(by[m]) for by in trained.values() if m in by] for m in methods}
    counts = ', '.join(f'`{m}` {count(answers)}' for m, answers in told.items())
    yield f'{len(configs)} {what}; the toolbox alone trains {len(trained)}; of these {counts}.\n'
    yield '| config | ' + ' | '.join(methods) + ' |\n|' + '---|' * (len(methods) + 1)
    for config, by in trained.items():
        yield f'| {config} | ' + ' | '.join(short(by.get(m, '')) for m in methods) + ' |'
    if len(trained) < len(configs):
        yield '\nNot trained by the toolbox alone here:\n'
        yield from (f'- {c}: {short(by["alone"])}' for c, by in configs.items() if c not in trained)
    yield ''


def count(answers: list[str]) -> str:
    """How many of some answers are a yes, and how many a refusal.

    >>> count(['yes', 'yes (what it lacks)', 'no: no bins'])
    '2 (of 3, 1 refused)'
    """
    works, refused = (sum(a.startswith(word) for a in answers) for word in ('yes', 'no: '))
    return f'{works} (of {len(answers)}' + (f', {refused} refused)' if refused else ')')


def short(reply: str) -> str:
    """An answer fit for a table: why, in a sentence, where that is known."""
    if misfit := next((why for pattern, why in MISFITS.items() if re.search(pattern, reply)), ''):
        return f'no: {misfit}'
    known = next((why for pattern, why in REASONS.items() if re.search(pattern, reply)), '')
    if reply.startswith('ok,'):
        return f'yes ({known or "does not predict: " + reply.split("predict: ")[-1][:120]})'
    return known or reply.replace('|', '/').split('; ')[0][:160]
