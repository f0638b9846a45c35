"""Which model families train under mmkd: one config of each folder of mmdet, mmpretrain and mmsegmentation.

    python benchmarks/compatibility/sweep.py run --toolbox mmdet     # writes results/mmdet.jsonl, resumable
    python benchmarks/compatibility/sweep.py table                   # writes docs/compatibility.md

Each config runs in a process of its own, bounded in time and memory: the toolbox alone first (loss, backward
and predict of two drawn images), then each method with the family's own model as the teacher.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / 'results'
PAGE = HERE.parents[1] / 'docs/compatibility.md'
METHODS = ('pkd', 'sfr', 'kd', 'frskd')
SIZES = {'mmdet': 320, 'mmpretrain': 224, 'mmseg': 128}
PROJECTS = {'mmdet': 'mmdet', 'mmpretrain': 'mmpretrain', 'mmseg': 'mmsegmentation'}


def folders(toolbox: str) -> dict[str, str]:
    """The first config of each folder, by folder."""
    from mmengine.utils import get_installed_path

    import mmkd  # noqa: F401

    root = Path(get_installed_path(toolbox), '.mim/configs')
    found = {}
    for folder in sorted(path for path in root.iterdir() if path.name[0] != '_'):
        configs = sorted(folder.glob('*.py')) or sorted(folder.glob('*/*.py'))
        if configs:
            found[folder.name] = str(configs[0].relative_to(root))
    return found


def plain(node: Any) -> None:
    """Take out what a single CPU process lacks: synchronised norms and weights to download."""
    if isinstance(node, dict):
        if node.get('type') in ('SyncBN', 'MMSyncBN'):
            node['type'] = 'BN'
        for key in ('pretrained', 'init_cfg'):
            value = node.get(key)
            pretrained = isinstance(value, dict) and value.get('type') == 'Pretrained'
            if pretrained or (key == 'pretrained' and isinstance(value, str)):
                node[key] = None
    children = node.values() if isinstance(node, dict) else node
    for value in children if isinstance(node, (dict, list)) else ():
        plain(value)


def batch(toolbox: str, model: Any) -> dict[str, Any]:
    """Two drawn images with labels."""
    import torch

    size = SIZES[toolbox]
    if toolbox == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        return demo_mm_inputs(
            2, [[3, size, size]] * 2, num_classes=2, with_mask=True, with_semantic=True
        )
    images = [torch.randint(0, 256, (3, size, size), dtype=torch.uint8) for _ in range(2)]
    if toolbox == 'mmpretrain':
        from mmpretrain.structures import DataSample

        return dict(inputs=images, data_samples=[DataSample().set_gt_label(i) for i in range(2)])
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    label = torch.randint(0, 2, (1, size, size))
    meta = dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size))
    samples = [SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=label)) for _ in range(2)]
    return dict(inputs=images, data_samples=samples)


def attempt(toolbox: str, config: str, method: str | None) -> str:
    """Train one step and predict; what was seen in a word."""
    import torch
    from mmengine.logging import MessageHub
    from mmengine.registry import DefaultScope

    import mmkd
    from mmkd.family.building import build_model, load_config, model_config

    torch.set_num_threads(1)
    torch.manual_seed(0)
    hub = MessageHub.get_current_instance()
    hub.update_info('max_iters', 10)
    hub.update_info('iter', 9)  # every ramp has begun
    cfg = load_config(f'{toolbox}::{config}')
    student = model_config(cfg)
    plain(student)
    if method is None:
        node: Any = student
    else:
        cfg.model = student
        self_taught = not mmkd.core.method.find_method(method).needs_teacher
        teacher = (
            {} if self_taught else dict(teacher=f'{toolbox}::{config}', checkpoint='untrained')
        )
        cfg = mmkd.distill(cfg, method, **teacher)
        node = cfg.model
        if not self_taught:
            node.teacher.config = student
    with DefaultScope.overwrite_default_scope(toolbox):
        model = build_model(node)
        model.init_weights()
        if method is not None:
            model.distillation.check_gradients = method == 'pkd'
            model.distillation.optimizers_installed = True
        model.train()
        data = model.data_preprocessor(batch(toolbox, model), True)
        losses = model(**data, mode='loss')
        total = model.parse_losses(losses)[0]
        if not total.isfinite():
            return 'losses are not finite'
        total.backward()
        if method is not None and not any(name.startswith(f'{method}/') for name in losses):
            return 'no term of the method'
        model.eval()
        with torch.no_grad():
            model(**model.data_preprocessor(batch(toolbox, model), False), mode='predict')
    return 'ok'


def limited(arguments: list[str], seconds: int, gigabytes: int) -> tuple[str, float]:
    """Run one attempt in a process; its answer, or why there is none."""

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (gigabytes * 2**30, gigabytes * 2**30))

    begin = time.time()
    command = [sys.executable, __file__, 'one', *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, preexec_fn=bound
        )
    except subprocess.TimeoutExpired:
        return f'more than {seconds} s', time.time() - begin
    lines = done.stdout.strip().splitlines()
    answer = lines[-1] if lines and done.returncode == 0 else f'exit {done.returncode}'
    return answer.removeprefix('answer: '), round(time.time() - begin, 1)


def run(toolbox: str, methods: list[str], seconds: int, gigabytes: int, only: list[str]) -> None:
    """Try every folder that has no result yet."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f'{toolbox}.jsonl'
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row['folder'], row['method']): row['answer'] for row in rows}
    for folder, config in folders(toolbox).items():
        for method in ['alone', *methods]:
            if (folder, method) in done or (only and folder not in only):
                continue
            if method != 'alone' and done[folder, 'alone'] != 'ok':
                continue
            answer, took = limited([toolbox, config, method], seconds, gigabytes)
            done[folder, method] = answer
            row = dict(folder=folder, config=config, method=method, answer=answer, seconds=took)
            with path.open('a') as file:
                file.write(json.dumps(row) + '\n')
            print(f'{folder:30s} {method:8s} {took:6.1f} s  {answer[:120]}', flush=True)


def table() -> Iterator[str]:
    """The page of the results."""
    yield '# Which families train\n'
    yield (
        'One config of each folder, two drawn images, random weights, one CPU thread: loss, backward and '
        "predict of the\ntoolbox alone, then with each method and the family's own model as the teacher. "
        'Written by\n`benchmarks/compatibility/sweep.py table`.\n'
    )
    for path in sorted(RESULTS.glob('*.jsonl')):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        answers: dict[str, dict[str, str]] = {}
        for row in rows:
            answers.setdefault(row['folder'], {})[row['method']] = row['answer']
        methods = [m for m in METHODS if any(m in by for by in answers.values())]
        trained = {folder: by for folder, by in answers.items() if by['alone'] == 'ok'}
        works = Counter(m for by in trained.values() for m in methods if by.get(m) == 'ok')
        yield f'## {PROJECTS[path.stem]}\n'
        yield (
            f'{len(answers)} folders, {len(trained)} train alone; of these '
            + ', '.join(f'`{m}` {works[m]}' for m in methods)
            + '.\n'
        )
        yield '| folder | ' + ' | '.join(methods) + ' |\n|' + '---|' * (len(methods) + 1)
        for folder, by in trained.items():
            cells = ['yes' if by.get(m) == 'ok' else short(by.get(m, 'not tried')) for m in methods]
            yield f'| {folder} | ' + ' | '.join(cells) + ' |'
        yield '\nNot trained by the toolbox alone here:\n'
        for folder, by in answers.items():
            if by['alone'] != 'ok':
                yield f'- {folder}: {short(by["alone"])}'
        yield ''


def short(answer: str) -> str:
    """The first sentence of an answer, fit for a table."""
    return answer.replace('|', '/').split('; ')[0][:160]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    sweep = commands.add_parser('run', help='try every folder that has no result yet')
    sweep.add_argument('--toolbox', choices=SIZES, default='mmdet')
    sweep.add_argument('--methods', nargs='+', default=['pkd'], choices=METHODS)
    sweep.add_argument('--folders', nargs='*', default=[], help='only these')
    sweep.add_argument('--seconds', type=int, default=150)
    sweep.add_argument('--gigabytes', type=int, default=12)
    commands.add_parser('table', help='write docs/compatibility.md')
    one = commands.add_parser('one', help='one attempt in this process')
    for name in ('toolbox', 'config', 'method'):
        one.add_argument(name)
    args = parser.parse_args()
    if args.command == 'run':
        run(args.toolbox, args.methods, args.seconds, args.gigabytes, args.folders)
    elif args.command == 'table':
        PAGE.write_text('\n'.join(table()).rstrip() + '\n')
    else:
        try:
            answer = attempt(
                args.toolbox, args.config, None if args.method == 'alone' else args.method
            )
        except Exception as error:  # whatever a family raises is its answer
            answer = f'{type(error).__name__}: ' + ' '.join(str(error).split())[:300]
        print(f'\nanswer: {answer}')


if __name__ == '__main__':
    main()
