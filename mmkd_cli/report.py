"""Write a page of what trainings have logged and learnt.

Training may still be running, have been stopped, or have been done with several seeds. The page is one file
that needs no network.

examples:
  mmkd report work_dirs/my_pkd
  mmkd report work_dirs/my_pkd --baseline work_dirs/my --teacher work_dirs/teacher_test
  mmkd report work_dirs/my_pkd --baseline work_dirs/my --pictures 6 --images 1000
  mmkd report work_dirs/pkd_0 work_dirs/pkd_1 --baseline work_dirs/alone_0 work_dirs/alone_1
  mmkd report work_dirs/which             all runs of `mmkd compare --work-dir work_dirs/which`
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from .arguments import add_trust


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which trainings, and what they are compared to."""
    parser.add_argument(
        'work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help='of trainings, or a comparison'
    )
    parser.add_argument(
        '--baseline', nargs='+', type=Path, default=[], metavar='DIR',
        help='work dirs of the student alone; plain students above are it, too',
    )  # fmt: skip
    parser.add_argument(
        '--teacher',
        dest='teacher_dir',
        type=Path,
        metavar='DIR',
        help='where the teacher was evaluated (mmkd test --work-dir DIR) or trained',
    )
    parser.add_argument('--metric', help="by default the config's save_best, or AP, top-1, mIoU")
    parser.add_argument(
        '--no-models', action='store_true',
        help='from the logs alone; otherwise finished networks are run on validation images',
    )  # fmt: skip
    parser.add_argument(
        '--images', type=int, default=200, metavar='N', help='on so many (%(default)s)'
    )
    parser.add_argument(
        '--pictures', type=int, default=4, metavar='N',
        help='show N of them with what alone, distilled and teacher find (%(default)s)',
    )  # fmt: skip
    add_trust(parser)
    parser.add_argument(
        '--out', type=Path, metavar='FILE', help='by default report.html in the first WORK_DIR'
    )


def run(args: argparse.Namespace) -> None:
    """Write the page and say where it is."""
    from mmengine.logging import MMLogger

    from mmkd.commands.report import write_report

    with contextlib.redirect_stdout(sys.stderr):  # what toolboxes print is no result
        MMLogger.get_current_instance().setLevel('WARNING')
        page = write_report(
            args.work_dirs,
            baseline=args.baseline,
            teacher_dir=args.teacher_dir,
            out=args.out,
            metric=args.metric,
            models=not args.no_models,
            images=args.images,
            pictures=args.pictures,
            trust_checkpoint=args.trust_checkpoint,
        )
    print(page)
