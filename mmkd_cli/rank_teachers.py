"""Say which of several teachers to take for a student.

Score, cost and gap to the student are measured on the student's own data.

examples:
  mmkd rank-teachers my.py --teachers r50.py:r50.pth r101.py:r101.pth
  mmkd rank-teachers my.py --teachers mmdet::gfl/gfl_r50_fpn_1x_coco.py --no-score
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_config_options, add_trust

if TYPE_CHECKING:
    from rich.table import Table

    from mmkd.commands.rank_teachers import Ranking


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Student and teachers, and on how much they are measured."""
    parser.add_argument('config', help="the student's plain config")
    parser.add_argument(
        '--teachers', nargs='+', required=True, metavar='CONFIG:CHECKPOINT',
        help='r50.py:r50.pth, or a config of the zoo alone (mmdet::...)',
    )  # fmt: skip
    parser.add_argument(
        '--student-checkpoint', metavar='FILE', help='by default the start of training is compared'
    )
    parser.add_argument(
        '--images', type=int, default=64, help='training images for gaps and times (%(default)s)'
    )
    parser.add_argument(
        '--no-score', action='store_true', help='do not evaluate the teachers, and do not choose'
    )
    add_config_options(parser, "overrides of the student's config")
    add_trust(parser)
    parser.add_argument('--out', metavar='FILE.json', help='write all numbers there too')


def run(args: argparse.Namespace) -> None:
    """Measure, show, and write the numbers."""
    from mmengine.logging import MMLogger
    from rich.console import Console

    from mmkd.commands.rank_teachers import rank_teachers

    with contextlib.redirect_stdout(sys.stderr):  # what toolboxes print is no result
        MMLogger.get_current_instance().setLevel('WARNING')
        ranking = rank_teachers(
            args.config,
            args.teachers,
            student_checkpoint=args.student_checkpoint,
            images=args.images,
            score=not args.no_score,
            cfg_options=args.cfg_options,
            trust_checkpoint=args.trust_checkpoint,
        )
    console = Console(width=120, soft_wrap=True, highlight=False)
    console.print(table(ranking))
    console.print(
        f'gap = 1 - CKA on {ranking.images} training images in {ranking.batches} batches; the student '
        f'is at {ranking.start}.',
        markup=False,
    )
    head = 'No choice' if ranking.choice is None else f'Take {ranking.choice}'
    console.print(f'{head}: {ranking.reason}.', markup=False)
    if args.out is not None:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(json.dumps(ranking.as_dict(), indent=2) + '\n')


def table(ranking: Ranking) -> Table:
    """A row for each teacher."""
    from rich.table import Table

    stages = list(dict.fromkeys(stage for m in ranking.teachers for stage in m.gaps))
    headings = ['teacher', ranking.metric or 'score', 'parameters', 'ms / image']
    shown = Table(*headings, *(f'gap {stage}' for stage in stages), 'mean gap')
    for m in ranking.teachers:
        score = '-' if m.score is None else f'{m.score:.4g}'
        cost = f'{m.parameters / 1e6:.2f} M', f'{m.seconds * 1e3:.2f}'
        gaps = (f'{m.gaps[stage]:.3f}' if stage in m.gaps else '-' for stage in stages)
        shown.add_row(m.name, score, *cost, *gaps, f'{m.mean_gap:.3f}')
    return shown
