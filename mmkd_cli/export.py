"""Write a student as plain config and smallest checkpoint.

example:
  mmkd export work_dirs/my_pkd/my.py work_dirs/my_pkd/epoch_12.pth --out exported
"""

from __future__ import annotations

import argparse

from .arguments import add_trust


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is written, and where."""
    parser.add_argument('config', help='the config that was trained')
    parser.add_argument('checkpoint', help='a checkpoint of that run')
    parser.add_argument('--out', default='exported', help='the folder to write into')
    add_trust(parser)


def run(args: argparse.Namespace) -> None:
    """Write both files and name them."""
    from mmkd.commands.export import export_student

    for path in export_student(args.config, args.checkpoint, args.out, args.trust_checkpoint):
        print(path)
