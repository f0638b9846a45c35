"""Label images with a trained network, with its scores.

A detector writes a COCO file of boxes (and masks), a classifier a list with soft labels. A plain config
trains on either. The same line again goes on where it was stopped.

examples:
  mmkd label teacher.py teacher.pth data/unlabelled --out pseudo.json
  mmkd label teacher.py teacher.pth data/val.json --root data/val --out pseudo.json --score-thr 0
"""

from __future__ import annotations

import argparse

from .arguments import add_config_options, add_trust


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Who labels what, and where it goes."""
    parser.add_argument('config', help='the config of the network that labels')
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument('images', help='a folder, a .txt with a name on each line, or a COCO .json')
    parser.add_argument('--out', required=True, metavar='FILE.json', help='the file to write')
    parser.add_argument(
        '--score-thr', type=float, default=0.3,
        help='boxes below are left out, of classifiers images (%(default)s)',
    )  # fmt: skip
    parser.add_argument(
        '--root', metavar='DIR', help='where names of a .txt or .json are relative to'
    )
    parser.add_argument('--batch-size', type=int, help="by default the config's for testing")
    parser.add_argument('--workers', type=int, default=2, help='processes that read (%(default)s)')
    add_config_options(parser, 'overrides of the config')
    add_trust(parser)


def run(args: argparse.Namespace) -> None:
    """Label, and name the file."""
    from mmkd.commands.label import label

    print(
        label(
            args.config,
            args.checkpoint,
            args.images,
            args.out,
            score_thr=args.score_thr,
            root=args.root,
            batch_size=args.batch_size,
            workers=args.workers,
            cfg_options=args.cfg_options,
            trust_checkpoint=args.trust_checkpoint,
        )
    )
