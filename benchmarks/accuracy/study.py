"""Students trained alone and distilled in several ways, over several seeds.

    python benchmarks/accuracy/study.py cifar10 --data DIR [--seeds 0 1 2] [--arms kd]

``DIR`` holds ``cifar10/``, ``bccd/`` and ``pretrained/`` (see the README here). Every run is one
``tools/train.py``, compared as ``tools/compare.py`` does; what has ended is not run again. Results go to
``results/STUDY.json``.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from mmkd.commands.arms import ALONE, LONGER, RESULT, Arm, Plan, Run, log_of, read_runs
from mmkd.commands.compare import Comparison, Key, check, outcome_of, run_all
from mmkd.commands.verdicts import notes_of, table
from mmkd.files.writing import write_whole

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OUT = Path('work_dirs/accuracy')
CONFIGS = 'benchmarks/accuracy/configs/'
YOLOX = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'
COCO = OUT / 'yolox_nano.pth'
BEGUN = OUT / 'bccd_begun_without_labels.pth'
"""Weights of YOLOX-nano, and those with which a student begins that has learned from it without labels."""

CIFAR_IMAGES = {
    'train': ('train', 0, 5_000),
    'val': ('train', 10_000, 15_000),
    'test': ('test', 0, 10_000),
    'all': ('train', 0, 50_000),
}
"""Of each split: where its images come from, and which of them in a fixed random order."""

DEPTHS = (20, 32, 44, 56)
EXACT = ('teacher.speed=exact',)
FAST = ('teacher.fuse=True', 'teacher.channels_last=True', 'teacher.precision=bf16')
ALL_IMAGES = (
    *('train_dataloader.dataset.data_prefix=all', 'train_dataloader.batch_size=128'),
    *('train_cfg.max_epochs=3', 'train_cfg.val_interval=3', 'param_scheduler.1.T_max=3'),
)
"""Of CIFAR-10, and a schedule for them."""

HELD_OUT = ('val_dataloader.dataset.data_prefix=val',)
DPK = ('dpk.size=light', 'dpk.task_weight=1.0', 'dpk.temperature=4.0', 'dpk.optimizer.lr=1e-3')
DPK_PUBLISHED = (
    *('dpk.size=light', 'dpk.task_weight=1.0', 'dpk.optimizer.lr=1e-3'),
    *('dpk.logits=1.0', 'dpk.feature=0.3', 'dpk.level_weights=[0.6,1.0]'),
)
BCCD_DPK = ('dpk.size=light', 'dpk.optimizer.lr=1e-3')
BCCD_LENGTH = (
    *('train_cfg.max_epochs', 'train_cfg.val_interval'),
    *('param_scheduler.1.end', 'param_scheduler.1.T_max'),
)
SHARES = (0.3, 1.0, 3.0, 10.0, 30.0)
RATIOS = (0.15, 0.35, 0.55, 0.75, 0.95)


@dataclass(frozen=True)
class Study:
    """Plans whose runs are compared in one table: they share the student, its options and their folder.

    Attributes:
        plans: one for each teacher.
        metric: the score that counts.
        smallest: the smallest difference that matters.
    """

    plans: tuple[Plan, ...]
    metric: str
    smallest: float


def studies(data: Path) -> dict[str, Study]:
    """All studies, with their data in a folder."""
    return {
        'cifar10': Study(tuple(cifar10(depth) for depth in DEPTHS), 'accuracy/top1', 0.5),
        'cifar10_all': Study(tuple(cifar10_all(depth) for depth in DEPTHS), 'accuracy/top1', 0.5),
        'cifar10_narrow': Study(
            tuple(cifar10_narrow(depth) for depth in DEPTHS), 'accuracy/top1', 0.5
        ),
        'cifar10_tuning': Study((cifar10_tuning(),), 'accuracy/top1', 0.5),
        'cifar10_ablations': Study((cifar10_ablations(),), 'accuracy/top1', 0.5),
        'bccd': bccd(data, 'test'),
        'bccd_tuning': bccd(data, 'val'),
        'bccd_faster': bccd_faster(data, 'test'),
        'bccd_faster_tuning': bccd_faster(data, 'val'),
        'bccd_no_labels': bccd_no_labels(data),
    }


def cifar_plan(
    name: str,
    depth: int,
    arms: dict[str, Arm],
    options: tuple[str, ...] = (),
    student: str = 'resnet8',
) -> Plan:
    """A ResNet of others teaches a small one."""
    return Plan(
        f'{CONFIGS}cifar10_{student}.py',
        arms,
        OUT / name,
        f'{CONFIGS}cifar10_resnet{depth}_pretrained.py',
        str(OUT / f'resnet{depth}.pth'),
        options,
    )


def share(method: str, value: float) -> tuple[str, ...]:
    """The weight of a method by gradient share."""
    return f'{method}.weight.type=GradientShare', f'{method}.weight.target={value}'


def cifar10(depth: int) -> Plan:
    """What a better teacher brings; more arms with the smallest teacher."""
    best = (*DPK, *share('dpk', 10.0))
    arms = {
        f'kd, ResNet-{depth}': Arm('kd', share('kd', 3.0)),
        f'dpk, ResNet-{depth}': Arm('dpk', best),
    }
    if depth == DEPTHS[0]:
        more = {
            'dpk, ratio .5': Arm('dpk', (*best, 'dpk.ratio=0.5')),
            'kd, weight 1': Arm('kd'),
            'pkd': Arm('pkd'),
            'dpk, published weights': Arm('dpk', DPK_PUBLISHED),
        }
        arms = {'alone': Arm(), **arms, **more}
    return cifar_plan('cifar10', depth, arms)


def cifar10_all(depth: int) -> Plan:
    """What a better teacher brings with all images; teachers run in half precision."""
    best = (*DPK, *share('dpk', 10.0), *FAST)
    arms = {
        f'kd, ResNet-{depth}': Arm('kd', (*share('kd', 3.0), *FAST)),
        f'dpk, ResNet-{depth}': Arm('dpk', best),
        f'dpk, ResNet-{depth}, ratio .5': Arm('dpk', (*best, 'dpk.ratio=0.5')),
    }
    if depth == DEPTHS[0]:
        arms['dpk, ResNet-20, bf16'] = Arm('dpk', (*best, 'dpk.precision=bf16'))
        arms = {'alone': Arm(), **arms}
    return cifar_plan('cifar10_all', depth, arms, ALL_IMAGES)


def cifar10_narrow(depth: int) -> Plan:
    """What a better teacher brings to a student that is as deep as the smallest, half as wide."""
    arms = {
        f'kd, ResNet-{depth}': Arm('kd', share('kd', 3.0)),
        f'dpk, ResNet-{depth}': Arm('dpk', (*DPK, *share('dpk', 10.0))),
    }
    if depth == DEPTHS[0]:
        arms = {'alone': Arm(), **arms}
    return cifar_plan('cifar10_narrow', depth, arms, student='resnet20_narrow')


def cifar10_tuning() -> Plan:
    """Weights of kd and DPK, on images held out of training."""
    return cifar_plan(
        'cifar10_tuning',
        20,
        {'alone': Arm(), 'kd': Arm('kd'), 'dpk, published weights': Arm('dpk', DPK_PUBLISHED)}
        | {f'kd, share {v}': Arm('kd', share('kd', v)) for v in SHARES}
        | {f'dpk, share {v}': Arm('dpk', (*DPK, *share('dpk', v))) for v in SHARES}
        | {
            f'dpk, feature {v}': Arm('dpk', (*DPK, 'dpk.logits=1.0', f'dpk.feature={v}'))
            for v in (0.3, 1.0, 3.0, 10.0)
        },
        HELD_OUT,
    )


def cifar10_ablations() -> Plan:
    """DPK with each of its parts otherwise, on images held out of training."""
    other = {
        'no prior': ('dpk.ratio=0.0',),
        'linear': ('dpk.ratio=linear',),
        'cosine': ('dpk.ratio=cosine',),
        'uniform': ('dpk.ratio=uniform',),
        'mask by energy': ('dpk.mask=teacher_energy',),
        'alignment of 256 images': ('dpk.ratio.type=cka', 'dpk.ratio.samples=256'),
        'smoothed': ('dpk.ratio.type=cka', 'dpk.ratio.momentum=0.9'),
        'floor 0': ('dpk.ratio.type=cka', 'dpk.ratio.low=0.0'),
        'T = 1': ('dpk.temperature=1.0',),
        'full': ('dpk.size=full',),
    } | {f'ratio {v}': (f'dpk.ratio={v}',) for v in RATIOS}
    base = (*DPK, 'dpk.logits=1.0', 'dpk.feature=3.0')
    arms = {f'dpk, {name}': Arm('dpk', (*base, *options)) for name, options in other.items()}
    return cifar_plan(
        'cifar10_ablations', 20, {'alone': Arm(), 'dpk': Arm('dpk', base)} | arms, HELD_OUT
    )


def bccd_arms() -> dict[str, Arm]:
    """The methods that are compared on BCCD, with any pair of detectors."""
    best = (*BCCD_DPK, *share('dpk', 1.0))
    smooth = ('dpk.ratio.type=cka', 'dpk.ratio.momentum=0.9')
    return {
        'kd': Arm('kd'),
        'pkd': Arm('pkd'),
        'dpk': Arm('dpk', best),
        'dpk, smoothed': Arm('dpk', (*best, *smooth)),
        'dpk, ratio .5': Arm('dpk', (*best, 'dpk.ratio=0.5')),
        'dpk, published weights': Arm('dpk', BCCD_DPK),
        'cwd': Arm('cwd'),
        'fgd': Arm('fgd'),
        'frskd': Arm('frskd'),
        'sfr': Arm('sfr'),
    }


def bccd(data: Path, split: str) -> Study:
    """YOLOX-nano with the knowledge of COCO, fine-tuned, teaches one of half its width."""
    arms = bccd_arms()
    if split == 'val':
        del arms['dpk']  # it is the one of the shares that was best here
        arms |= {
            f'{method}, share {value}': Arm(method, (*options, *share(method, value)))
            for value in (1.0, 3.0)
            for method, options in (('kd', ()), ('pkd', ()), ('dpk', BCCD_DPK))
        }
    plan = Plan(
        f'{CONFIGS}bccd_yolox_half.py',
        {'alone': Arm(), **arms},
        OUT / ('bccd' if split == 'test' else 'bccd_tuning'),
        f'{CONFIGS}bccd_yolox_nano.py',
        str(OUT / 'bccd_yolox_nano.pth'),
        bccd_options(f'{data / "bccd"}/', split),
    )
    return Study((plan,), 'coco/bbox_mAP', 0.01)


def bccd_faster(data: Path, split: str) -> Study:
    """A two-stage pair: Faster R-CNN on the networks of the pair above."""
    arms = bccd_arms()
    if split == 'val':
        best = arms['dpk'].options
        arms['dpk, patch 1'] = Arm('dpk', (*best, 'dpk.patch=1'))
        arms['dpk, share 0.1'] = Arm('dpk', (*best, 'dpk.weight.target=0.1'))
    plan = Plan(
        f'{CONFIGS}bccd_faster_half.py',
        {'alone': Arm(), **arms},
        OUT / ('bccd_faster' if split == 'test' else 'bccd_faster_tuning'),
        f'{CONFIGS}bccd_faster_nano.py',
        str(OUT / 'bccd_faster_nano.pth'),
        bccd_options(f'{data / "bccd"}/', split),
    )
    return Study((plan,), 'coco/bbox_mAP', 0.01)


def bccd_no_labels(data: Path) -> Study:
    """Features first, without labels, then the student's own training; and YOLOX-nano itself, fine-tuned."""
    options = bccd_options(f'{data / "bccd"}/', 'test')
    small, large = f'{CONFIGS}bccd_yolox_half.py', f'{CONFIGS}bccd_yolox_nano.py'
    folder = OUT / 'bccd_no_labels'
    begun = (*options, f'load_from={BEGUN}')
    pretrained = (*options, f'load_from={COCO}', 'optim_wrapper.optimizer.lr=1e-3')
    longer = (*options, *(f'{key}=60' for key in BCCD_LENGTH))
    plans = (
        Plan(small, {'alone': Arm()}, folder, cfg_options=options),
        Plan(small, {'alone, twice as long': Arm()}, folder, cfg_options=longer),
        Plan(small, {'pkd without labels, then alone': Arm()}, folder, cfg_options=begun),
        Plan(large, {'YOLOX-nano, fine-tuned': Arm()}, folder, cfg_options=pretrained),
    )
    return Study(plans, 'coco/bbox_mAP', 0.01)


def bccd_options(root: str, split: str) -> tuple[str, ...]:
    """Where the data set is, and what it is evaluated on."""
    truth = f'annotations/{split}.json'
    evaluated = [
        option
        for part in ('val', 'test')
        for option in (
            f'{part}_dataloader.dataset.ann_file={truth}',
            f'{part}_evaluator.ann_file={root}{truth}',
        )
    ]
    parts = ('train', 'val', 'test')
    return (*(f'{part}_dataloader.dataset.data_root={root}' for part in parts), *evaluated)


def main() -> None:
    args = parse_args()
    os.chdir(ROOT)
    console = Console(width=140, soft_wrap=True, highlight=False)
    data = args.data.resolve()
    study = studies(data)[args.study]
    prepare(study, data)
    asked = list(comparisons(study, args))
    result = HERE / 'results' / f'{args.study}.json'
    former = former_entries(result)
    for one in asked:
        check(one)
        restore(one, former, data)
    for one in asked:
        run_all(one, console, retry=args.retry)
    arms = [arm for plan in study.plans for arm in plan.arms] + [LONGER]
    entries = former | new_entries(study, data, former)
    runs = [run_of(entry) for entry in entries.values()]
    found = outcome_of(runs, arms, study.metric, study.smallest)
    content = dict(found.as_dict(), runs=list(entries.values()))
    write_whole(result, json.dumps(content, indent=1).encode() + b'\n')
    console.print(table(found.rows, f'{args.study}: {found.title}'))
    console.print('\n'.join([*notes_of(found.rows), *found.failed]), markup=False)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('study', choices=list(studies(Path())))
    parser.add_argument('--data', type=Path, default='data', help='the folder of the data sets')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    parser.add_argument('--arms', nargs='+', help='by default all')
    parser.add_argument(
        '--same-time', action='store_true', help='and the student alone for as long'
    )
    parser.add_argument('--threads', type=int, default=1, help='threads of a run')
    parser.add_argument('--retry', action='store_true', help='run again what has failed')
    return parser.parse_args()


def comparisons(study: Study, args: argparse.Namespace) -> Iterator[Comparison]:
    """What is asked for of each plan; the form of teachers is fixed, so that runs can be repeated."""
    for plan in study.plans:
        arms = {
            name: with_form(arm)
            for name, arm in plan.arms.items()
            if args.arms is None or name in args.arms
        }
        if arms:
            chosen = replace(plan, arms=arms, threads=args.threads)
            if not any(arm.needs_teacher for arm in arms.values()):
                chosen = replace(chosen, teacher=None, teacher_checkpoint=None)
            longer = args.same_time and len(arms) > 1 and ALONE in arms
            yield Comparison(chosen, tuple(args.seeds), longer, study.metric, study.smallest)


def with_form(arm: Arm) -> Arm:
    """Its teacher, if it has one, runs exactly where it has no other form."""
    if not arm.needs_teacher or any(option.startswith('teacher.') for option in arm.options):
        return arm
    return replace(arm, options=(*arm.options, *EXACT))


def prepare(study: Study, data: Path) -> None:
    """The images and the weights that runs begin with, where they are not at hand."""
    if study.metric == 'accuracy/top1':
        write_cifar(data / 'cifar10/cifar10_jpgbytes.npz', OUT / 'data/cifar10')
    for plan in study.plans:
        starts = [option.removeprefix('load_from=') for option in plan.cfg_options]
        for name in (str(plan.teacher_checkpoint), *starts):
            if name.startswith(f'{OUT}/'):
                make_weights(Path(name), data)


def make_weights(target: Path, data: Path) -> None:
    """Import or train one of the files that runs begin with."""
    if target.exists():
        return
    if target.stem.startswith('resnet'):
        source = data / 'pretrained' / f'cifar10_{target.stem}.th'
        run_script('import_weights.py', 'cifar', source, target)
    elif target == COCO:
        source, images = data / 'pretrained/yolox_nano_coco.onnx', data / 'bccd/BCCD/JPEGImages'
        run_script('import_weights.py', 'yolox', source, target, '--images', images)
    else:
        make_weights(COCO, data)
        (begin_without_labels if target == BEGUN else fine_tune)(target, data)


def fine_tune(target: Path, data: Path) -> None:
    """A teacher for BCCD: what fits of YOLOX-nano begins with its weights of COCO."""
    options = [*bccd_options(f'{data / "bccd"}/', 'test'), f'load_from={COCO}']
    config, folder = f'{CONFIGS}{target.stem}.py', OUT / target.stem
    options = [*options, 'optim_wrapper.optimizer.lr=1e-3']
    run_script('../../tools/train.py', config, '--work-dir', folder, '--cfg-options', *options)
    shutil.copy((folder / 'last_checkpoint').read_text().strip(), target)


def begin_without_labels(target: Path, data: Path) -> None:
    """The small YOLOX learns the features of COCO's YOLOX-nano on the training images alone."""
    config, folder = f'{CONFIGS}bccd_yolox_half.py', OUT / target.stem
    words = ['--distill', 'pkd', '--teacher', YOLOX, '--teacher-checkpoint', COCO, '--no-labels']
    options = [*bccd_options(f'{data / "bccd"}/', 'test'), 'randomness.seed=10']
    train = ['../../tools/train.py', config, '--work-dir', folder, *words]
    run_script(*train, '--distill-options', *EXACT, '--cfg-options', *options)
    shutil.copy((folder / 'last_checkpoint').read_text().strip(), target)


def run_script(name: str, *words: object) -> None:
    """Another script; what it says goes to a log."""
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / 'teachers.log').open('a') as log:
        command = [sys.executable, str(HERE / name), *map(str, words)]
        subprocess.run(command, check=True, stdout=log, stderr=log)


def write_cifar(source: Path, folder: Path) -> None:
    """The first images of each split as files in a folder for each class."""
    missing = [split for split in CIFAR_IMAGES if not (folder / f'{split}.complete').exists()]
    if not missing:
        return
    content = np.load(source)
    names = [str(name) for name in content['names']]
    for split in missing:
        part, begin, end = CIFAR_IMAGES[split]
        data, offsets = content[f'{part}_bytes'], content[f'{part}_off']
        for index in np.random.default_rng(0).permutation(len(offsets) - 1)[begin:end]:
            name = names[content[f'{part}_y'][index]]
            target = folder / split / name / f'{index:05d}.png'
            target.parent.mkdir(parents=True, exist_ok=True)
            jpeg = data[offsets[index] : offsets[index + 1]].tobytes()
            Image.open(io.BytesIO(jpeg)).save(target)
        (folder / f'{split}.complete').touch()


def former_entries(result: Path) -> dict[Key, dict[str, Any]]:
    """The runs that a result has already; their folders may be gone."""
    runs = json.loads(result.read_text())['runs'] if result.exists() else []
    return {(entry['arm'], entry['seed']): entry for entry in runs}


def restore(asked: Comparison, former: dict[Key, dict[str, Any]], data: Path) -> None:
    """Lay out what a result has of the runs that are asked for, so that they do not run again."""
    for arm, seed in asked.keys:
        folder, entry = asked.plan.folder(arm, seed), former.get((arm, seed))
        if arm == LONGER or entry is None or (folder / RESULT).exists():
            continue
        command = [word.replace('DIR/', f'{data}/') for word in entry['command']]
        if command[1:] == asked.plan.command(arm, seed):
            folder.mkdir(parents=True, exist_ok=True)
            run = asdict(replace(run_of(entry), command=command))
            write_whole(folder / RESULT, json.dumps(run, indent=1).encode())


def new_entries(
    study: Study, data: Path, former: dict[Key, dict[str, Any]]
) -> dict[Key, dict[str, Any]]:
    """The runs on disk without a machine's paths, and with the readings of DPK."""
    found = {}
    for run in read_runs(study.plans[0].work_dir):
        entry = asdict(run)
        entry['score'] = run.metrics.get(study.metric)
        entry['command'] = [word.replace(f'{data}/', 'DIR/') for word in run.command]
        plan = next((p for p in study.plans if run.arm in p.arms), None)
        if plan is not None:
            curves = curves_of(log_of(plan.folder(run.arm, run.seed)))
            entry['curves'] = curves or former.get((run.arm, run.seed), {}).get('curves', {})
        found[run.arm, run.seed] = entry
    return found


def run_of(entry: dict[str, Any]) -> Run:
    """A run from its entry in a result."""
    return Run(**{f.name: entry[f.name] for f in fields(Run) if f.name in entry})


def curves_of(entries: list[dict[str, Any]]) -> dict[str, list[float]]:
    """The mean of each logged ratio, alignment and weight in every epoch."""
    wanted = ('/ratio.', '/cka.', '/weight')
    names = sorted({key for e in entries for key in e if any(part in key for part in wanted)})
    epochs = sorted({e['epoch'] for e in entries if 'epoch' in e})
    return {
        name: [
            round(statistics.mean(e[name] for e in entries if e.get('epoch') == n and name in e), 4)
            for n in epochs
            if any(e.get('epoch') == n and name in e for e in entries)
        ]
        for name in names
    }


if __name__ == '__main__':
    main()
