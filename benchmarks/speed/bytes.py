"""Bytes that distillation adds to what ranks send in a step, beside those of the gradients.

    python benchmarks/speed/bytes.py --out benchmarks/speed/results/bytes.json
    python benchmarks/speed/bytes.py --methods dpk --out benchmarks/speed/results/bytes.json

Two CPU ranks (gloo) train a RetinaNet and a classifier with each method, or, where a method takes neither,
the first of the other pairs of ``methods.py`` that it takes. Collective operations of the third step are
counted, backward pass included; where weights are set by shares of the gradient those of the thirteenth. What
the student alone exchanges is taken away. A method's own parameters have gradients too, which distributed
training sums with those of the student.

A rank gives ``summed`` bytes to sums (a ring of k ranks sends 2 (k-1)/k times as much) and ``gathered`` bytes
to all others (k-1 times). Shares are of what is sent for the student's gradients, which are sums.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).parent))
from methods import PAIRS, variant
from mmengine.logging import MMLogger
from step_time import build, fake_batch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmkd import InputError
from mmkd.commands.methods import known_methods
from mmkd.family.taps import flatten
from mmkd.training.processes import leave_ranks

MAIN = ('retinanet', 'resnet18')
OTHERS = tuple(pair for pair in PAIRS if pair not in MAIN)
RANKS = 2


class Exchanges(TorchDispatchMode):
    """Adds up the bytes that this rank gives to collective operations, by what they do."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == 'c10d':
            gathers = 'allgather' in func.__name__
            # gathering names what comes in first, then what is given
            given = sum(tensor.nbytes for tensor in flatten(args[1 if gathers else 0]))
            self.bytes['gathered' if gathers else 'summed'] += given
        return func(*args, **(kwargs or {}))


def exchanged(model: nn.Module, size: int, count: int) -> Counter[str]:
    """What a rank gives in a step after some others."""
    methods = model.distillation.methods.values() if hasattr(model, 'distillation') else []
    for _ in range(13 if any(method.share for method in methods) else 3):
        data = model.data_preprocessor(fake_batch(model, size, count), True)
        with Exchanges() as seen:
            model.parse_losses(model(**data, mode='loss'))[0].backward()
        model.zero_grad()
    return seen.bytes


def gradients(module: nn.Module) -> int:
    """Bytes of the gradients of a module's parameters."""
    return sum(p.nbytes for p in module.parameters() if p.requires_grad)


def row(name: str, pair: str, size: int, count: int) -> dict[str, int]:
    """What a method adds on a pair of networks."""
    torch.manual_seed(0)
    alone, model = build(pair, {}), build(pair, variant(name))
    added = exchanged(model, size, count) - exchanged(alone, size, count)
    own = sum(gradients(method) for method in model.distillation.methods.values())
    return dict(
        summed=added['summed'],
        gathered=added['gathered'],
        own_gradients=own,
        gradients=gradients(alone),
    )


def rows(name: str, size: int, count: int) -> dict[str, Any]:
    """What a method adds on all pairs that it takes, or why it takes one not."""
    found: dict[str, Any] = {}
    for pair in (*MAIN, *OTHERS):
        if pair in OTHERS and any(isinstance(row, dict) for row in found.values()):
            break
        try:
            found[pair] = row(name, pair, size, count)
        except InputError as error:
            found[pair] = str(error)
    return found


def work(rank: int, names: list[str], size: int, count: int, folder: str) -> None:
    """One of the ranks; the first leaves what it found in a file."""
    torch.set_num_threads(1)
    MMLogger.get_current_instance().setLevel('ERROR')
    meet = f'file://{folder}/meet'
    dist.init_process_group('gloo', init_method=meet, rank=rank, world_size=RANKS)
    found = {}
    for name in names:
        found[name] = rows(name, size, count)
        if rank == 0:
            Path(folder, 'found.json').write_text(json.dumps(found))
            print(name, found[name], flush=True)
    leave_ranks()


def share(row: dict[str, int], ranks: int) -> float:
    """Of the bytes that a rank sends for the student's gradients, what the method's exchanges are."""
    return (row['summed'] + row['gathered'] * ranks / 2) / row['gradients']


def show(found: dict[str, Any]) -> None:
    """A table, then what was left out and why."""
    print('| method | pair | summed | gathered | share, 2 ranks | 8 ranks | own gradients |')
    print('|---|---|---|---|---|---|---|')
    for name, pairs in found.items():
        for pair, row in pairs.items():
            if isinstance(row, dict):
                shares = ' | '.join(f'{100 * share(row, k):.4f} %' for k in (2, 8))
                own = row['own_gradients'] / row['gradients']
                print(
                    f'| `{name}` | {pair} | {row["summed"]} | {row["gathered"]} | {shares} | {own:.1%} |'
                )
    for name, pairs in found.items():
        for pair, reason in pairs.items():
            if isinstance(reason, str):
                print(f'{name} on {pair}: {reason}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    own = [n for n, kind in known_methods().items() if kind.__module__.startswith('mmkd.')]
    parser.add_argument('--methods', nargs='+', default=own, choices=own)
    parser.add_argument('--size', type=int, default=256, help='of the images')
    parser.add_argument('--batch-size', type=int, default=2, help='of each rank')
    parser.add_argument('--table', action='store_true', help='measure nothing, show what is there')
    parser.add_argument('--out', type=Path, help='a JSON file, to which is added')
    args = parser.parse_args()
    found = json.loads(args.out.read_text())['bytes'] if args.out and args.out.exists() else {}
    if not args.table:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(work, (args.methods, args.size, args.batch_size, folder), nprocs=RANKS)
            found |= json.loads(Path(folder, 'found.json').read_text())
    show(dict(sorted(found.items())))
    if args.out and not args.table:
        about = dict(
            size=args.size,
            batch_size=args.batch_size,
            ranks=RANKS,
            torch=torch.__version__,
            date=time.strftime('%Y-%m-%d'),
        )
        args.out.write_text(
            json.dumps(dict(about=about, bytes=dict(sorted(found.items()))), indent=1) + '\n'
        )


if __name__ == '__main__':
    main()
