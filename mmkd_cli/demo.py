"""See it work on drawn data, about 5 minutes.

A student is trained alone and distilled; both are compared with their teacher, and a picture is drawn.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where it goes."""
    parser.add_argument('--out', default='work_dirs/demo', help='where runs and the picture go')
    parser.add_argument(
        '--train-teacher', action='store_true',
        help='train the teacher and store it in configs/demo of a checkout',
    )  # fmt: skip


def run(args: argparse.Namespace) -> bool:
    """Run it; whether all that it claims came out."""
    warnings.simplefilter('ignore')  # other packages' deprecations; before they are imported
    from mmkd.commands.demo import RunError, demo_root, run_demo, train_teacher

    out = Path(args.out).resolve()
    root = demo_root(out)
    try:
        if not args.train_teacher:
            return run_demo(root, out)
        train_teacher(root, out / 'teacher_training')
    except RunError as error:
        sys.exit(str(error))
    return True
