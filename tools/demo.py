"""Train a student alone and distilled on drawn data, compare both with their teacher."""

import argparse
import sys
import warnings
from pathlib import Path

warnings.simplefilter('ignore')  # other packages' deprecations; before they are imported

from mmkd.commands.demo import RunError, run_demo, train_teacher  # noqa: E402
from mmkd.commands.tool import run_tool  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', default='work_dirs/demo', help='where runs and the picture go')
    parser.add_argument(
        '--train-teacher',
        action='store_true',
        help='train the teacher and store it in configs/demo',
    )
    args = parser.parse_args()
    out = Path(args.out).resolve()
    try:
        if args.train_teacher:
            train_teacher(ROOT, out / 'teacher_training')
        elif not run_demo(ROOT, out):
            sys.exit(1)
    except RunError as error:
        sys.exit(str(error))


if __name__ == '__main__':
    run_tool(main)
