"""Trainings as processes of their own, started as a user does and killed at random moments."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from resumable import BY_ITERATION, INFINITE, INSIDE, METHODS, WORKERS, config

from mmkd.files.checkpoints import read_checkpoint
from mmkd.training.manifest import flat

ROOT = Path(__file__).parents[1]
STAGES = ['backbone.layer2', 'backbone.layer3']
OFTEN = {**INSIDE, 'default_hooks.checkpoint.interval': 2, 'train_cfg.val_interval': 2}
SHORT = {**OFTEN, 'train_dataloader.dataset.indices': 24, 'val_dataloader.dataset.indices': 4}
LONG = {**SHORT, 'train_cfg.max_epochs': 4}
CASES = {
    'short': ('classifier', dict(kd=dict(type='mmkd.KD')), {**SHORT, 'train_cfg.max_epochs': 1}),
    'kd': ('classifier', dict(kd=dict(type='mmkd.KD')), LONG),
    'dpk': ('classifier', dict(dpk=dict(METHODS['dpk'], tap=STAGES)), LONG),
    'frskd': ('classifier', dict(frskd=dict(METHODS['frskd'], tap=STAGES)), LONG),
    'sfr': ('classifier', dict(sfr=dict(METHODS['sfr'], tap=STAGES)), LONG),
    'retinanet': ('retinanet', dict(dpk=METHODS['dpk']), {**OFTEN, 'train_cfg.max_epochs': 6}),
    'faster_rcnn': (
        'faster_rcnn',
        dict(sfr=dict(type='mmkd.SFR'), frskd=dict(type='mmkd.FRSKD')),
        {**OFTEN, 'train_cfg.max_epochs': 6},
    ),
    'workers': (
        'classifier',
        dict(kd=dict(type='mmkd.KD')),
        {
            **INFINITE,
            **WORKERS,
            'default_hooks.checkpoint.interval': 2,
            'train_cfg': dict(type='IterBasedTrainLoop', max_iters=40, val_interval=16),
        },
    ),
    'passes': (
        'classifier',
        dict(sfr=dict(METHODS['sfr'], tap=STAGES)),
        {
            **BY_ITERATION,
            **WORKERS,
            'train_dataloader.dataset.indices': 24,
            'train_dataloader.persistent_workers': False,
            'default_hooks.checkpoint.interval': 2,
            'train_cfg': dict(type='IterBasedTrainLoop', max_iters=40, val_interval=16),
        },
    ),
    'ranks': (
        'classifier',
        dict(dpk=dict(METHODS['dpk'], tap=STAGES)),
        {**LONG, 'train_cfg.max_epochs': 6},
    ),
    'accumulated': (
        'classifier',
        dict(dpk=dict(METHODS['dpk'], tap=STAGES)),
        {**LONG, 'train_cfg.max_epochs': 6, 'optim_wrapper.accumulative_counts': 3},
    ),
}
SHARD = dict(type='mmkd.FullyShard', teacher='shard', smallest=1000)
CASES['shards'] = (*CASES['ranks'][:2], {**CASES['ranks'][2], 'model_wrapper_cfg': SHARD})
RANKS = ('ranks', 'accumulated', 'shards')


def training(case, shapes, folder, vis_backends=()):
    """A case's config as a file."""
    family, methods, changes = CASES[case]
    return written(config(shapes, family, methods, **changes), folder, vis_backends)


def written(cfg, folder, vis_backends=()):
    """A config that logs every iteration, as a file."""
    cfg.visualizer.vis_backends = list(vis_backends)
    cfg.log_level, cfg.default_hooks.logger.interval = 'INFO', 1
    cfg.dump(folder / 'training.py')
    return folder / 'training.py'


class Process:
    """``tools/train.py --resume auto`` as a process of its own, or ranks under ``tools/dist_train.sh``."""

    def __init__(self, cfg, work_dir, ranks=1, log=None):
        tool = [sys.executable, str(ROOT / 'tools/train.py'), str(cfg)]
        if ranks > 1:
            tool = ['bash', str(ROOT / 'tools/dist_train.sh'), str(cfg), str(ranks)]
        self.log = log or Path(f'{work_dir}.log')
        with self.log.open('w') as log:
            self.process = subprocess.Popen(
                [*tool, '--work-dir', str(work_dir), '--resume', 'auto'],
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, 'OMP_NUM_THREADS': '1', 'PORT': str(20000 + os.getpid() % 20000),
                     'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}'},
            )  # fmt: skip

    def iterations(self):
        """Which iterations the log tells of so far."""
        return re.findall(r'\(train\) *(\[.*\])', self.log.read_text(errors='replace'))

    def wait_for(self, true):
        """Wait until something is true; whether it came before the process ended."""
        while not true():
            if self.process.poll() is not None:
                return bool(true())
            time.sleep(0.001)
        return True

    def family(self):
        """The process and all that it has started, with their environment."""
        parents = {}
        for stat in Path('/proc').glob('[0-9]*/stat'):
            try:
                parents[int(stat.parent.name)] = int(stat.read_text().rpartition(')')[2].split()[1])
            except OSError:
                continue
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def kill(self, rank=None):
        """SIGKILL to all, or to one rank."""
        for pid in self.family():
            try:
                variables = Path(f'/proc/{pid}/environ').read_bytes().split(b'\0')
                if rank is None or f'RANK={rank}'.encode() in variables:
                    os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        self.process.wait(timeout=120)


def stop_at_random(process, work_dir, draw, least, most, pace, rank=None):
    """Kill it some iterations after its first, or while it writes a checkpoint; whether it was in time."""
    after, writing = int(draw.integers(least, most + 1)), bool(draw.random() < 0.5)
    wait = float(draw.uniform(0, 2 * pace))
    alive = process.wait_for(lambda: len(process.iterations()) >= after)
    if writing:
        alive = alive and process.wait_for(lambda: list(work_dir.glob('*.part')))
        wait = float(draw.uniform(0, 0.003))
    time.sleep(wait)
    process.kill(rank)
    parts = [path.name for path in work_dir.glob('*.part')]
    print(
        f'killed {"rank " + str(rank) if rank is not None else "all"} after {process.iterations()[-1:]}'
        f' (drawn: {after} iterations and {wait:.4f} s{", writing" if writing else ""}); left {parts}'
    )
    return alive and process.process.returncode != 0


def final(work_dir):
    """What the last checkpoint holds, but for clocks and logs."""
    path = Path((work_dir / 'last_checkpoint').read_text())
    content = read_checkpoint(path)
    return path.name, flat({k: v for k, v in content.items() if k not in ('meta', 'message_hub')})


def differing(ours, theirs):
    """The names under which two checkpoints hold something else."""
    assert ours.keys() == theirs.keys()
    same = {
        name: torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b or (a != a and b != b)
        for name, a, b in ((name, a, theirs[name]) for name, a in ours.items())
    }
    return [name for name, equal in same.items() if not equal]
