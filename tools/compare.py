"""Train a student alone and in other ways over several seeds, and say which is better and how sure that is."""

import argparse
import sys
from pathlib import Path

from mmkd.commands.arms import Plan, parse_arms
from mmkd.commands.compare import Comparison, compare
from mmkd.commands.tool import run_tool


def seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help="the student's plain config")
    parser.add_argument(
        '--arms', nargs='+', required=True, metavar='ARM',
        help="kd, pkd+kd, 'dpk:dpk.weight=auto,dpk.size=light'; alone is always there",
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
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='unpickle checkpoints without restriction; they can execute code',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    plan = Plan(
        args.config,
        parse_arms(args.arms),
        Path(args.work_dir),
        args.teacher,
        args.teacher_checkpoint,
        tuple(args.cfg_options),
        str(Path(__file__).with_name('train.py')),
        args.trust_checkpoint,
        args.threads,
    )
    asked = Comparison(plan, tuple(args.seeds), args.same_time, args.metric, args.smallest)
    out = Path(args.out) if args.out else None
    if not compare(asked, listed=args.list, index=args.index, retry=args.retry, out=out):
        sys.exit(1)


if __name__ == '__main__':
    run_tool(main)
