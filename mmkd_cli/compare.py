"""Train a student in several ways and say which is better.

Each way is trained with the same seeds; the verdict says how sure the paired differences make it.

examples:
  mmkd compare my.py --arms kd pkd --teacher t.py --teacher-checkpoint t.pth --work-dir work_dirs/which
  mmkd compare my.py --arms 'dpk:dpk.weight=auto' --seeds 0 1 2 --same-time ... --list
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_trust


def seed(text: str) -> int:
    """A whole number from 0 on."""
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arms, what they share, and what is done with their runs."""
    parser.add_argument('config', help="the student's plain config")
    parser.add_argument(
        '--arms', nargs='+', required=True, metavar='ARM',
        help="kd, pkd+kd, 'dpk:dpk.weight=auto', other.py; alone is always there",
    )  # fmt: skip
    parser.add_argument('--teacher', metavar='CONFIG', help="the teacher's config")
    parser.add_argument('--teacher-checkpoint', metavar='FILE', help="the teacher's weights")
    parser.add_argument('--seeds', type=seed, nargs='+', default=[0, 1, 2, 3, 4], metavar='N')
    parser.add_argument('--work-dir', required=True, help='where runs and results go')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
        help="overrides of the student's config, in every arm",
    )  # fmt: skip
    parser.add_argument('--metric', help="by default the config's save_best, or AP, top-1, mIoU")
    parser.add_argument(
        '--smallest', type=float, default=0.0, help='the smallest difference that matters'
    )
    parser.add_argument(
        '--same-time', action='store_true',
        help='one more arm: alone for as many seconds as the distilled arms take on average',
    )  # fmt: skip
    parser.add_argument('--threads', type=int, help='threads of every run (OMP_NUM_THREADS)')
    parser.add_argument('--list', action='store_true', help='print what is still to run')
    parser.add_argument('--index', type=int, metavar='N', help='run the N-th of the list alone')
    parser.add_argument('--retry', action='store_true', help='run again what has failed')
    parser.add_argument('--out', metavar='FILE', help='write the table: FILE.md, or else JSON')
    add_trust(parser)


def run(args: argparse.Namespace) -> bool:
    """Run what is left to run and show the table; whether no run failed."""
    from mmkd.commands.arms import Plan, parse_arms
    from mmkd.commands.compare import Comparison, compare
    from mmkd.commands.tool import ROOT

    plan = Plan(
        args.config,
        parse_arms(args.arms),
        Path(args.work_dir),
        args.teacher,
        args.teacher_checkpoint,
        tuple(args.cfg_options),
        str(ROOT / 'tools/train.py'),
        args.trust_checkpoint,
        args.threads,
    )
    asked = Comparison(plan, tuple(args.seeds), args.same_time, args.metric, args.smallest)
    out = Path(args.out) if args.out else None
    return compare(asked, listed=args.list, index=args.index, retry=args.retry, out=out)
