"""Train a teacher and a student on drawn data, distil the student, compare the three."""

import argparse
from pathlib import Path

from mmkd.commands.demo import run_demo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', default='work_dirs/demo', help='where runs and the picture go')
    run_demo(Path(__file__).resolve().parents[1], Path(parser.parse_args().out).resolve())


if __name__ == '__main__':
    main()
