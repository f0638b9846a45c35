"""Write a distilled student as a plain config and the smallest plain checkpoint."""

import argparse

from mmkd.commands.export import export_student
from mmkd.commands.tool import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='the config that was trained')
    parser.add_argument('checkpoint', help='a checkpoint of that run')
    parser.add_argument('--out', default='exported', help='the folder to write into')
    parser.add_argument(
        '--trust-checkpoint', action='store_true', help='unpickle without restriction'
    )
    args = parser.parse_args()
    for path in export_student(args.config, args.checkpoint, args.out, args.trust_checkpoint):
        print(path)


if __name__ == '__main__':
    run_tool(main)
