"""Which model families train under mmkd: one config of each folder of mmdet, mmpretrain and mmsegmentation.

    python benchmarks/compatibility/sweep.py run --toolbox mmdet     # writes results/mmdet.jsonl, resumable
    python benchmarks/compatibility/sweep.py run --toolbox mmdet --pick smallest --folders retinanet yolox
    python benchmarks/compatibility/sweep.py run --toolbox mmdet --sample 30    # others, drawn at random
    python benchmarks/compatibility/sweep.py table                   # writes docs/compatibility.md

Each attempt is a forked process of its own, bounded in time and memory: the toolbox alone first (loss,
backward and predict of two drawn images), then each method with the family's own model as the teacher.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import time
import traceback
from collections.abc import Collection
from contextlib import suppress
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / 'results'
PAGE = HERE.parents[1] / 'docs/compatibility.md'
METHODS = ('pkd', 'sfr', 'kd', 'frskd', 'bckd', 'cross_kd', 'ld')
SIZES = {'mmdet': (192, 320), 'mmpretrain': (), 'mmseg': (128,)}
"""Sides of the drawn images, the larger tried where the smaller fails; a config's own size comes last."""
BOXES_ONLY = ('RTMDetHead', 'RTMDetSepBNHead')
"""Heads that look at masks where there are some, and take them for tensors."""
LIGHT = r'r18|r34|r-?50|resnet18|resnet50|tiny|nano|small|[-_](s|t|xs|b0|p32)[-_]'
HEAVY = r'headless|large|huge|giant|r101|x101|[-_](l|x|h|g|xl|m)[-_]'


def folders(toolbox: str, pick: str = 'light', only: Collection[str] = ()) -> dict[str, str]:
    """A config of each folder, by folder.

    Args:
        toolbox: whose.
        pick: ``light``: the first that is named like a small one, ``first`` or ``last`` by name, ``smallest``
            or ``largest`` by parameters, or a pattern (``*panoptic*``) whose first match is taken.
        only: the folders that are looked at; by default all.
    """
    found = {f: configs for f, configs in every_config(toolbox).items() if not only or f in only}
    if '*' in pick:
        matching = {f: [c for c in cs if fnmatch(Path(c).name, pick)] for f, cs in found.items()}
        found = {folder: configs for folder, configs in matching.items() if configs}
    return {folder: choose(toolbox, configs, pick) for folder, configs in found.items()}


def further(toolbox: str, number: int) -> list[tuple[str, str]]:
    """A fixed random sample of configs beside those of :func:`folders`, each with its folder."""
    first = set(folders(toolbox).values())
    every = [
        (f, c) for f, cs in every_config(toolbox).items() for c in sorted(cs) if c not in first
    ]
    return sorted(random.Random(7).sample(every, number))


def every_config(toolbox: str) -> dict[str, list[str]]:
    """The configs of each folder, by folder."""
    root = root_of(toolbox)
    found = {}
    for folder in sorted(path for path in root.iterdir() if path.name[0] != '_'):
        paths = sorted(folder.glob('[!_]*.py')) or sorted(folder.glob('*/[!_]*.py'))
        if paths:
            found[folder.name] = [str(path.relative_to(root)) for path in paths]
    return found


def root_of(toolbox: str) -> Path:
    """Where a toolbox has its configs."""
    from mmengine.utils import get_installed_path

    return Path(get_installed_path(toolbox), '.mim/configs')


def choose(toolbox: str, configs: list[str], pick: str) -> str:
    """One of a folder's configs."""
    if pick in ('smallest', 'largest'):
        counted = [(limited(count, (toolbox, c), 60, 12)[0], c) for c in configs]
        sizes = {
            config: n for n, config in counted if isinstance(n, int) and n
        }  # others say why not
        configs = sorted(sizes, key=lambda config: sizes[config]) or configs[:1]
    if pick == 'light':
        names = {config: Path(config).name for config in configs}
        configs.sort(
            key=lambda c: bool(re.search(HEAVY, names[c])) - bool(re.search(LIGHT, names[c]))
        )
    return configs[-1 if pick in ('last', 'largest') else 0]


def count(toolbox: str, config: str) -> int:
    """The number of parameters of a config's model; 0 where it cannot be built."""
    import torch
    from mmengine.registry import DefaultScope

    from mmkd.family.building import build_model

    with torch.device('meta'), DefaultScope.overwrite_default_scope(toolbox):
        return sum(p.numel() for p in build_model(student_of(toolbox, config).model).parameters())


def student_of(toolbox: str, config: str) -> Any:
    """A config whose model has nothing that a single CPU process lacks."""
    from mmkd.family.building import load_config, model_config

    cfg = load_config(root_of(toolbox) / config)
    cfg.model = model_config(cfg)
    plain(cfg.model)
    return cfg


def plain(node: Any) -> None:
    """Take out what one CPU process lacks: synchronised norms, weights to download, time for many boxes."""
    if isinstance(node, dict):
        node.pop('batch_augments', None)  # some pad or resize every batch to what the paper had
        if node.get('type') in ('SyncBN', 'MMSyncBN'):
            node['type'] = 'BN'
        for key in ('num', 'max_per_img'):  # boxes of a sampler, of proposals
            if isinstance(node.get(key), int) and (key == 'num' or 'nms_pre' in node):
                node[key] = min(node[key], 50)
        for key in ('pretrained', 'init_cfg'):
            value = node.get(key)
            if isinstance(value, dict) and 'checkpoint' in value:
                node[key] = None
            elif key == 'pretrained' and value:
                node[key] = False if value is True else None
    children = node.values() if isinstance(node, dict) else node
    for value in children if isinstance(node, (dict, list)) else ():
        plain(value)


def batch(toolbox: str, model: Any, size: int) -> dict[str, Any]:
    """Two drawn images with labels."""
    import torch

    from mmkd.family.blanks import channels_of_images

    if toolbox == 'mmdet':
        from mmdet.testing import demo_mm_inputs
        from mmengine.structures import InstanceData

        data = demo_mm_inputs(
            2, [[3, size, size]] * 2, num_classes=2, with_mask=True, with_semantic=True
        )
        for sample in data['data_samples']:
            if type(getattr(model, 'bbox_head', None)).__name__ in BOXES_ONLY:
                del sample.gt_instances.masks
            sample.gt_instances.labels.zero_()  # some detect one class only
            if not hasattr(model, 'rpn_head'):  # then proposals come from a file
                boxes = sample.gt_instances.bboxes
                sample.proposals = InstanceData(bboxes=boxes, scores=boxes.new_ones(len(boxes)))
        return data
    shape = (channels_of_images(model), size, size)
    images = [torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(2)]
    if toolbox == 'mmpretrain':
        from mmpretrain.structures import DataSample

        return dict(inputs=images, data_samples=[DataSample().set_gt_label(i) for i in range(2)])
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    label = torch.randint(0, 2, (1, size, size))
    meta = dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size))
    maps = dict(gt_sem_seg=PixelData(data=label), gt_edge_map=PixelData(data=label))
    samples = [SegDataSample(metainfo=meta, **maps) for _ in range(2)]
    return dict(inputs=images, data_samples=samples)


def attempt(toolbox: str, config: str, method: str | None) -> str:
    """Train a config's model for one step and predict; what was seen in a word."""
    import torch

    from mmkd.family.sizes import pipeline_size

    cfg = student_of(toolbox, config)
    own = None if toolbox == 'mmdet' else pipeline_size(cfg)
    *smaller, last = [*SIZES[toolbox], own] if own else SIZES[toolbox] or (224,)
    for size in smaller:
        with suppress(Exception):
            torch.manual_seed(0)
            if (reply := one_step(toolbox, cfg, method, size)).startswith('ok'):
                return reply
    torch.manual_seed(0)
    return one_step(toolbox, cfg, method, last)


def one_step(toolbox: str, cfg: Any, method: str | None, size: int) -> str:
    """Train a config's model for one step, alone or by methods (``sfr+kd``), and predict; what was seen."""
    import torch
    from mmengine.registry import DefaultScope

    import mmkd
    from mmkd.core.method import find_method
    from mmkd.family.building import build_model
    from mmkd.files.checkpoints import load_weights

    node = cfg.model
    if 'size' in (node.get('data_preprocessor') or {}):
        node.data_preprocessor.size = (size, size)  # mmseg pads to it
    names = method.split('+') if method else []
    if method is not None:
        taught = any(find_method(name).needs_teacher for name in names)
        teacher = dict(teacher=cfg, checkpoint='untrained') if taught else {}
        node = mmkd.distill(cfg, method, **teacher).model
    with DefaultScope.overwrite_default_scope(toolbox):
        model = build_model(node)
        model.init_weights()
        if method is not None:
            # two untrained networks may agree to the last digit; so their distance need not train
            model.distillation.check_gradients = method == 'pkd'
            model.distillation.optimizers_installed = True
            for teacher in model.distillation.teachers.values():
                teacher.model.init_weights()
                report = load_weights(teacher.model, teacher.model.state_dict())
                if not report.clean:
                    return f'its own checkpoint is refused: {report}'
        if hasattr(model, 'set_epoch'):
            model.set_epoch(0)  # as SetEpochInfoHook does
        model.train()
        losses = model(**model.data_preprocessor(batch(toolbox, model, size), True), mode='loss')
        total = model.parse_losses(losses)[0]
        if not total.isfinite():
            return 'losses are not finite'
        total.backward()
        if not {f'{name}/' for name in names} <= {re.sub('/.*', '/', term) for term in losses}:
            return 'no term of the method'
        if method not in (None, METHODS[0]):
            return 'ok'  # prediction is the student's own, and was looked at before
        model.eval()
        try:
            with torch.no_grad():
                model(**model.data_preprocessor(batch(toolbox, model, size), False), mode='predict')
        except Exception as error:  # prediction is the student's own; an SSD's has a defect, say
            return f'ok, but does not predict: {reason(error)}'
    return 'ok'


def reason(error: Exception) -> str:
    """An error in a line, with the place where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = re.sub(r'\S*/site-packages/', '', ' '.join(str(error).split()))[:300]
    return f'{type(error).__name__}: {text} ({Path(last.filename).name}:{last.lineno})'


def limited(function: Any, arguments: tuple[Any, ...], seconds: int, gigabytes: int) -> Any:
    """Call a function in a forked process; its answer, or why there is none, and the seconds it took."""
    begin = time.time()
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(False)
    child = context.Process(target=answer, args=(sender, seconds, gigabytes, function, arguments))
    child.start()
    sender.close()
    try:
        reply = receiver.recv()
    except EOFError:
        child.join()
        late = child.exitcode == -signal.SIGXCPU
        reply = f'more than {seconds} s of a core' if late else 'the process died'
    child.join()
    return reply, round(time.time() - begin, 1)


def answer(
    sender: Any, seconds: int, gigabytes: int, function: Any, arguments: tuple[Any, ...]
) -> None:
    """In the child: bounded time and memory, no output, and whatever a family raises is its answer."""
    from mmengine.logging import MessageHub

    resource.setrlimit(resource.RLIMIT_AS, (gigabytes * 2**30, gigabytes * 2**30))
    hub = MessageHub.get_current_instance()
    hub.update_info('max_iters', 10)
    hub.update_info('iter', 9)  # every ramp has begun
    hub.update_info('epoch', 0)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    try:
        sender.send(function(*arguments))
    except Exception as error:
        sender.send(reason(error))


def warm_up() -> None:
    """Import once, on one thread, what every attempt needs."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    import mmkd  # noqa: F401

    for module in ('mmdet.models', 'mmdet.testing', 'mmpretrain.models', 'mmseg.models'):
        import_module(module)


def run(args: argparse.Namespace) -> None:
    """Try every folder that has no result yet; ``again``: also what has failed with a method.

    All methods train together first; where that fails, one by one. Where a method trains, so does the toolbox
    alone, which is tried where the method fails.
    """
    warm_up()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f'{args.toolbox}.jsonl'
    done = {(row['config'], row['method']): row['answer'] for row in rows_of(path)}

    def note(folder: str, config: str, methods: list[str], reply: str, took: float) -> None:
        for method in methods:
            done[config, method] = reply
            row = dict(folder=folder, config=config, method=method, answer=reply, seconds=took)
            with path.open('a') as file:
                file.write(json.dumps(row) + '\n')
            print(f'{folder:24s} {method:6s} {took:6.1f} s  {reply[:150]}', flush=True)

    def trains(folder: str, config: str, method: str) -> bool:
        reply = done.get((config, method))
        again = args.again and reply and not reply.startswith('ok') and method != 'alone'
        if reply is None or again:
            given = (args.toolbox, config, None if method == 'alone' else method)
            reply, took = limited(attempt, given, args.seconds, args.gigabytes)
            note(folder, config, [method], reply, took)
        return reply.startswith('ok')

    def train_together(folder: str, config: str, methods: list[str]) -> None:
        given = (args.toolbox, config, '+'.join(methods))
        reply, took = limited(attempt, given, args.seconds, args.gigabytes)
        if reply.startswith('ok'):
            note(folder, config, methods, reply, round(took / len(methods), 1))

    chosen = list(folders(args.toolbox, args.pick, args.folders).items())
    for folder, config in further(args.toolbox, args.sample) if args.sample else chosen:
        if done.get((config, 'alone'), 'ok').startswith('ok'):
            waiting = [m for m in args.methods if (config, m) not in done]
            if len(waiting) > 1:
                train_together(folder, config, waiting)
            for method in args.methods:
                if not trains(folder, config, method) and not trains(folder, config, 'alone'):
                    break


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The results of a toolbox; of several for the same attempt the last counts."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return list({(row['config'], row['method']): row for row in rows}.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    sweep = commands.add_parser('run', help='try every folder that has no result yet')
    sweep.add_argument('--toolbox', choices=SIZES, default='mmdet')
    sweep.add_argument('--methods', nargs='*', default=['pkd'], choices=METHODS)
    sweep.add_argument('--again', action='store_true', help='also what has failed with a method')
    sweep.add_argument('--pick', default='light', help='which config of a folder: see folders()')
    sweep.add_argument('--sample', type=int, help='so many further configs in place of those')
    sweep.add_argument('--folders', nargs='*', default=[], help='only these')
    sweep.add_argument('--seconds', type=int, default=120, help='of a core')
    sweep.add_argument('--gigabytes', type=int, default=10)
    commands.add_parser('table', help='write docs/compatibility.md')
    args = parser.parse_args()
    if args.command == 'run':
        run(args)
    else:
        from page import table

        PAGE.write_text('\n'.join(table()).rstrip() + '\n')


if __name__ == '__main__':
    main()
