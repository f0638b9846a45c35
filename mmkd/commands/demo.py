"""The demonstration: a trained teacher, a student, and the same student distilled, on drawn data.

The teacher lies in ``configs/demo`` with the command that made it. The student is trained alone and
distilled with one schedule and one seed, side by side, each on one thread, so that what comes out
depends on neither the number of cores nor what else runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.utils import get_installed_path
from rich.console import Console
from rich.table import Table

from .. import torchvision_cure
from ..datasets import CLASSES, ShapesSpec, make_shapes
from ..errors import InputError
from ..family.building import build_model, load_config, model_config
from ..files.checkpoints import read_checkpoint, weights_of
from ..files.writing import latest_checkpoint, write_whole
from .picture import compare_images, draw_comparison
from .tool import ROOT

DATA, SPEC = (
    'data/demo',
    ShapesSpec(1200, 300, smallest=128, largest=128, objects=4, small=14, large=30),
)
TEACHER_DATA, TEACHER_SPEC = (
    'data/demo_teacher',
    ShapesSpec(**{**vars(SPEC), 'train': 6000, 'val': 1}),
)
FOLDER = 'configs/demo'
STUDENT, DISTILLED, TEACHER = (
    f'{FOLDER}/{name}.py' for name in ('student', 'distilled', 'teacher')
)
WEIGHTS, CARD = f'{FOLDER}/teacher.pth', f'{FOLDER}/teacher.json'
TEACHER_COMMAND = 'python tools/demo.py --train-teacher'

LEAST_TEACHER, LEAST_ALONE, LEAST_GAIN = 0.60, 0.25, 0.06
"""What the demonstration claims of the teacher's AP, of the student's alone, and of the gain."""

SCORE = 0.35
"""Boxes of at least this score are drawn, whichever detector gives them."""

Metrics = Mapping[str, float]
"""What mmdet's CocoMetric logs, by its names without ``coco/``."""


class RunError(RuntimeError):
    """A command of the demonstration failed; the message has its last lines."""


@dataclass
class Run:
    """One command of the demonstration, in a process of one thread.

    Attributes:
        name: what it gives.
        command: the arguments of Python.
        folder: its work dir; all that it prints is in ``output.txt`` there.
        say: is told a line of progress.
        measures: whether it must print AP; a training that is resumed at its end does not.
    """

    name: str
    command: list[str]
    folder: Path
    say: Callable[[str], None]
    measures: bool = True
    metrics: Metrics = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    def __call__(self, root: Path) -> Metrics:
        """Run it to its end and read the AP that it prints; its last lines are the error if it fails."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1'}
        self.process = subprocess.Popen(
            [sys.executable, *self.command],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        with (self.folder / 'output.txt').open('w') as output:
            for line in self.process.stdout:
                output.write(line)
                self._read(line)
        if self.process.wait() or (self.measures and not self.metrics):
            raise RunError(self._failure())
        return self.metrics

    def stop(self) -> None:
        """End it before its time."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def _read(self, line: str) -> None:
        self.metrics = metrics_of(line) or self.metrics
        progress = progress_of(line)
        if progress:
            self.say(f'{self.name:<10} {progress}')

    def _failure(self) -> str:
        path = self.folder / 'output.txt'
        last = path.read_text().splitlines()[-25:]
        status = self.process.returncode if self.process is not None else None
        return '\n'.join([*last, '', f'{self.name} failed (status {status}); all it said: {path}'])


def run_demo(root: Path, out: Path) -> bool:
    """Train, distil, evaluate, compare and draw; whether all that is claimed came out.

    Args:
        root: the checkout.
        out: where runs and the picture go.
    """
    console, start = Console(highlight=False, soft_wrap=True), time.time()
    console.rule('a teacher, a student, and the same student distilled')
    card = check_teacher(root)
    make_shapes(root / DATA, SPEC)
    for line in _set_up(root, card):
        console.print(line)
    metrics = _run_all(root, out, console)
    console.print(table_of(metrics))
    claims = claims_of(metrics)
    for claim, holds in claims.items():
        console.print(f'[{"green]yes" if holds else "red]NO "}[/]  {claim}')
    picture, caption = _draw(root, out, metrics)
    write_whole(out / 'results.json', json.dumps(metrics, indent=1).encode())
    console.print(f'\n{caption}\n')
    console.print(f'picture       {picture}')
    console.print(f'numbers       {out / "results.json"}')
    console.print(f'checkpoint    {checkpoint(out / "distilled")} (plain mmdet, {STUDENT})')
    console.print(f'{time.time() - start:.0f} seconds')
    return all(claims.values())


def demo_root(out: Path) -> Path:
    """The folder that has ``configs`` and ``tools`` and takes the data: the checkout, or one in ``out``."""
    if ROOT.name != '.mim':
        return ROOT
    made = out / 'files'
    made.mkdir(parents=True, exist_ok=True)
    for name in ('configs', 'tools'):
        if not (made / name).exists():
            (made / name).symlink_to(ROOT / name)
    return made


def checkpoint(run: Path) -> Path:
    """The last checkpoint of a run."""
    return Path((run / 'last_checkpoint').read_text().strip())


# -- the teacher -----------------------------------------------------------------------------------


def check_teacher(root: Path) -> dict[str, Any]:
    """What is stored beside the teacher, after a look whether its file is the one that was stored."""
    card = json.loads((root / CARD).read_text())
    found = hashlib.sha256((root / WEIGHTS).read_bytes()).hexdigest()
    if found != card['sha256']:
        raise InputError(
            f'{WEIGHTS}: its sha256 is {found[:12]}..., {CARD} says {card["sha256"][:12]}...; take '
            f'both files from one commit, or train the teacher anew: {TEACHER_COMMAND}'
        )
    return card


def train_teacher(root: Path, out: Path) -> None:
    """Train the teacher, or go on where it was stopped, and store it with its AP."""
    console = Console(highlight=False, soft_wrap=True)
    make_shapes(root / DATA, SPEC)
    make_shapes(root / TEACHER_DATA, TEACHER_SPEC)
    command = ['tools/train.py', TEACHER, '--work-dir', str(out), '--resume']
    Run('teacher', command, out, console.print, measures=False)(root)
    trained = latest_checkpoint(out)
    assert trained is not None
    store_teacher(trained, root)
    stored = out / 'stored'
    metrics = Run('stored', _test(TEACHER, root / WEIGHTS, stored), stored, console.print)(root)
    write_whole(root / CARD, json.dumps(_card(root, metrics), indent=1).encode() + b'\n')
    console.print(f'{WEIGHTS}: AP {metrics["bbox_mAP"]:.3f}')


def store_teacher(trained: Path, root: Path) -> None:
    """Write the plain weights of a checkpoint in half precision."""
    half = {
        name: value.half() if value.is_floating_point() else value
        for name, value in weights_of(read_checkpoint(trained)).items()
    }
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(meta=meta, state_dict=half), root / WEIGHTS)


def _card(root: Path, metrics: Metrics) -> dict[str, Any]:
    return dict(
        command=TEACHER_COMMAND,
        config=TEACHER,
        sha256=hashlib.sha256((root / WEIGHTS).read_bytes()).hexdigest(),
        metrics=metrics,
    )


# -- the runs --------------------------------------------------------------------------------------


def _set_up(root: Path, card: Mapping[str, Any]) -> list[str]:
    """What is about to be done, in a few lines."""
    students, teacher = (_parameters(root / config) for config in (STUDENT, TEACHER))
    methods = load_config(root / DISTILLED).model.methods
    return [
        f'data          {SPEC.train} drawn images to train, {SPEC.val} to validate: {DATA}',
        f'teacher       {teacher / 1e6:.2f} M parameters, AP {card["metrics"]["bbox_mAP"]:.3f} when stored:'
        f' {WEIGHTS} ({card["command"]})',
        f'student       {students / 1e6:.2f} M parameters, from scratch: {STUDENT}',
        f'distilled     the same by {"+".join(methods)}, same schedule and seed: {DISTILLED}',
        'time          both trainings run side by side, on one thread each; about 5 minutes\n',
    ]


def _parameters(config: Path) -> int:
    return sum(p.numel() for p in build_model(model_config(load_config(config))).parameters())


def _run_all(root: Path, out: Path, console: Console) -> dict[str, Metrics]:
    """Both trainings side by side, each followed by an evaluation, and what all four give."""
    folders = {name: out / name for name in ('alone', 'teacher', 'distilled', 'plain')}
    runs = {
        'alone': _train(STUDENT, folders['alone']),
        'teacher': _test(TEACHER, root / WEIGHTS, folders['teacher']),
        'distilled': _train(DISTILLED, folders['distilled']),
        'plain': _plain_test(STUDENT, folders['distilled'], folders['plain']),
    }
    chains = [
        [Run(name, runs[name], folders[name], console.print) for name in names]
        for names in (('alone', 'teacher'), ('distilled', 'plain'))
    ]
    _in_chains(chains, root)
    return {run.name: run.metrics for chain in chains for run in chain}


def _in_chains(chains: list[list[Run]], root: Path) -> None:
    """Run chains side by side; where one fails the others are stopped and its error is raised."""
    stopped = threading.Event()

    def follow(chain: list[Run]) -> None:
        for run in chain:
            if not stopped.is_set():
                run(root)

    with ThreadPoolExecutor(len(chains)) as pool:
        jobs = [pool.submit(follow, chain) for chain in chains]
        try:
            ended, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in ended:
                job.result()
        except BaseException:
            stopped.set()
            for run in (run for chain in chains for run in chain):
                run.stop()
            raise


def _train(config: str, folder: Path) -> list[str]:
    return ['tools/train.py', config, '--work-dir', str(folder), *_predictions(folder)]


def _test(config: str, weights: Path, folder: Path) -> list[str]:
    command = ['tools/test.py', config, str(weights), '--work-dir', str(folder)]
    return [*command, *_predictions(folder)]


def _predictions(folder: Path) -> list[str]:
    """Options that let the evaluator keep the boxes that it has judged."""
    return [
        '--cfg-options',
        *(f'{part}_evaluator.outfile_prefix={folder}/boxes' for part in ('val', 'test')),
    ]


def _plain_test(config: str, trained: Path, folder: Path) -> list[str]:
    """mmdet's own test tool in a process that cannot import mmkd.

    Only torchvision is cured where its compiled part cannot load, because mmengine imports it for its
    environment report.
    """
    tool = Path(get_installed_path('mmdet'), '.mim/tools/test.py')
    code = (
        'import pathlib, runpy, sys;'
        f"runpy.run_path({str(Path(torchvision_cure.__file__))!r})['install']();"
        "sys.modules['mmkd'] = None;"
        f"weights = pathlib.Path({str(trained)!r}, 'last_checkpoint').read_text().strip();"
        f"sys.argv = [{str(tool)!r}, {config!r}, weights, '--work-dir', {str(folder)!r}];"
        f"runpy.run_path({str(tool)!r}, run_name='__main__')"
    )
    return ['-c', code]


def metrics_of(line: str) -> dict[str, float]:
    """The metrics in a line of mmengine's log; none in any other line.

    >>> metrics_of('Epoch(val) [1][6/6]  coco/ring_precision: 0.5  coco/bbox_mAP: 0.4000  time: 0.2')
    {'ring_precision': 0.5, 'bbox_mAP': 0.4}
    """
    return {name: float(value) for name, value in re.findall(r'coco/(\w+): (-?[\d.]+)', line)}


def progress_of(line: str) -> str:
    """What to show of a line of mmengine's log: the end of an epoch, or the AP.

    >>> progress_of('Epoch(train)  [3][75/75]  lr: 2e-3  eta: 0:00:44  time: 0.2  loss: 1.38  loss_cls: 1')
    'epoch 3, loss 1.38, 0:00:44 left'
    """
    metrics = metrics_of(line)
    if metrics:
        return f'AP {metrics["bbox_mAP"]:.3f}'
    found = re.search(
        r'\(train\)\s+\[\s*(\d+)\]\[\s*(\d+)/\s*(\d+)\].* eta: ([\d:]+).* loss: (\S+)', line
    )
    if found is None or found[2] != found[3]:
        return ''
    return f'epoch {found[1]}, loss {float(found[5]):.2f}, {found[4]} left'


# -- what came out ---------------------------------------------------------------------------------


def rows_of(metrics: Mapping[str, Metrics]) -> list[tuple[str, float, float, float]]:
    """Lines of the table: a class, or all, and the AP alone, distilled and of the teacher."""
    names = {'all': 'bbox_mAP', **{name: f'{name}_precision' for name in CLASSES}}
    return [
        (name, *(metrics[run][key] for run in ('alone', 'distilled', 'teacher')))  # type: ignore[misc]
        for name, key in names.items()
    ]


def claims_of(metrics: Mapping[str, Metrics]) -> dict[str, bool]:
    """Each claim of the demonstration with the numbers that it is about, and whether it holds."""
    rows = rows_of(metrics)
    _, alone, distilled, teacher = rows[0]
    wrong = [name for name, *row in rows[1:] if not row[0] < row[1] < row[2]]
    plain = metrics['plain']
    same = all(metrics['distilled'][key] == value for key, value in plain.items())
    return {
        f'the teacher has AP {teacher:.3f} (at least {LEAST_TEACHER:.2f})': teacher
        >= LEAST_TEACHER,
        f'the student alone {alone:.3f} (at least {LEAST_ALONE:.2f})': alone >= LEAST_ALONE,
        f'the distilled student {distilled - alone:+.3f} (at least {LEAST_GAIN:+.2f})': (
            round(distilled - alone, 4) >= LEAST_GAIN
        ),
        'alone < distilled < teacher in every class'
        + (f', but not in {", ".join(wrong)}' if wrong else ''): not wrong,
        f'the distilled checkpoint in plain mmdet, which cannot import mmkd: {plain["bbox_mAP"]:.3f}, '
        f'{"the same in every class" if same else "NOT the same"}': same,
    }


def table_of(metrics: Mapping[str, Metrics]) -> Table:
    """AP of each class for each detector."""
    table = Table('AP', 'alone', 'distilled', 'gain', 'teacher')
    for name, alone, distilled, teacher in rows_of(metrics):
        gain = f'{distilled - alone:+.3f}'
        cells = (f'{alone:.3f}', f'{distilled:.3f}', gain, f'{teacher:.3f}')
        table.add_row(name, *cells, end_section=name == 'all')
    return table


def _draw(root: Path, out: Path, metrics: Mapping[str, Metrics]) -> tuple[Path, str]:
    coco = json.loads((root / DATA / 'annotations/val.json').read_text())
    names = ('alone', 'distilled', 'teacher')
    boxes = {name: json.loads((out / name / 'boxes.bbox.json').read_text()) for name in names}
    chosen, caption = compare_images(coco, boxes, SCORE)
    picture = out / 'comparison.png'
    draw_comparison(picture, root / DATA / 'images/val', chosen, caption, rows_of(metrics))
    return picture, caption
