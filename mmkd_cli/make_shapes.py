"""Draw the embedded data set.

example:
  mmkd make-shapes data/shapes --train 400 --val 100 --seed 1
"""

from __future__ import annotations

import argparse

NUMBERS = dict(
    train=720, val=200, seed=0, smallest=128, largest=160, objects=6, small=8, large=28, crop=64
)
"""The numbers of a ``ShapesSpec`` and their defaults, without its import."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where, and how many of what size."""
    parser.add_argument('root', nargs='?', default='data/shapes', help='the folder to draw into')
    for name, default in NUMBERS.items():
        parser.add_argument(f'--{name}', type=int, default=default, help='%(default)s by default')


def run(args: argparse.Namespace) -> None:
    """Draw it."""
    from mmkd.datasets import ShapesSpec, make_shapes

    root = make_shapes(args.root, ShapesSpec(**{name: getattr(args, name) for name in NUMBERS}))
    print(f'data set in {root}')
