"""Bytes that a rank holds when a large teacher trains a student, whole (DDP) or sharded (mmkd.FullyShard).

Two CPU ranks, real steps with AdamW; each variant in fresh processes. Example:

    python benchmarks/memory/ranks.py --out benchmarks/memory/results/ranks.json
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmdet.testing import demo_mm_inputs
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS, DefaultScope

import mmkd  # noqa: F401
from mmkd.collectives import local_part
from mmkd.family.building import load_config, model_config
from mmkd.training.processes import leave_ranks
from mmkd.training.sharding import Sharding, shard

STUDENT = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
TEACHER = 'mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py'
VARIANTS = ('DDP', 'student sharded', 'student and teacher sharded')
MIB = 2**20


def mebibytes(tensors: Iterable[torch.Tensor]) -> float:
    """What this rank holds of some tensors."""
    return round(sum(local_part(t).nbytes for t in tensors) / MIB, 1)


def alive() -> float:
    """All tensors of the process, each storage once."""
    gc.collect()
    tensors = [t for t in gc.get_objects() if isinstance(t, torch.Tensor)]
    locals_ = [local_part(t) for t in tensors]
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in locals_)}
    return round(sum(storages.values()) / MIB, 1)


def resident(entry: str) -> float:
    """Memory of the process: ``VmRSS`` now, ``VmHWM`` at most."""
    lines = Path('/proc/self/status').read_text().splitlines()
    line = next(line for line in lines if line.startswith(entry))
    return round(int(line.split()[1]) / 1024, 1)


def work(rank: int, variant: str, folder: str) -> None:
    """Some steps on one of two ranks; what it held is left in a file."""
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)
    dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)
    torch.manual_seed(0)
    student = model_config(load_config(STUDENT))
    student.backbone.init_cfg = None
    teacher = dict(config=TEACHER, checkpoint='untrained')
    config = dict(
        type='mmkd.Distiller',
        student=student,
        teacher=teacher,
        methods=dict(pkd=dict(type='mmkd.PKD')),
    )
    with DefaultScope.overwrite_default_scope('mmkd'):
        model: Any = MODELS.build(config)
    model.init_weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    if variant == 'DDP':
        net = MMDistributedDataParallel(model, broadcast_buffers=False)
    else:
        net = model
        options = Sharding('whole' if variant == 'student sharded' else 'shard', 1_000_000, True)
        shard(model, options, [optimizer], [])
    raw = demo_mm_inputs(2, [[3, 256, 256]] * 2, num_classes=80)
    batch = model.data_preprocessor(raw, True)
    for iteration in range(4):
        optimizer.zero_grad()
        model.parse_losses(net(**batch, mode='loss'))[0].backward()
        optimizer.step()
        if iteration == 1:
            gc.collect()
            Path('/proc/self/clear_refs').write_text('5')  # the high-water mark starts anew
    teachers = model.distillation.teachers.values()
    states = [v for s in optimizer.state.values() for v in s.values() if v.dim() > 0]
    held = {
        'student': mebibytes(model.parameters()),
        'gradients': mebibytes(p.grad for p in model.parameters() if p.grad is not None),
        'optimizer': mebibytes(states),
        'teacher': mebibytes(p for t in teachers for p in t.parameters()),
        'all tensors': alive(),
        'process between steps': resident('VmRSS'),
        'process at most': resident('VmHWM'),
    }
    Path(folder, f'{rank}.json').write_text(json.dumps(held))
    del net, model
    leave_ranks()


def main() -> None:
    """Measure and print; keep the results if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, help='where the results go, as JSON')
    args = parser.parse_args()
    results = {}
    for variant in VARIANTS:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(work, (variant, folder), nprocs=2)
            results[variant] = [json.loads(Path(folder, f'{r}.json').read_text()) for r in range(2)]
        print(variant, results[variant])
    about = dict(
        torch=torch.__version__, machine=platform.machine(), date=time.strftime('%Y-%m-%d')
    )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(dict(about=about, mebibytes=results), indent=1))


if __name__ == '__main__':
    main()
