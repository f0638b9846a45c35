"""Print the places that a method can read, with shapes.

examples:
  mmkd taps my.py
  mmkd taps mmdet::retinanet/retinanet_r50_fpn_1x_coco.py --match backbone.layer
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and which places."""
    parser.add_argument(
        'config', help='a config of any project; of a Distiller the student is shown'
    )
    parser.add_argument('--match', default='', help='only names that contain this')


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    from mmkd.family.building import build_model, load_config, model_config
    from mmkd.family.running import all_taps
    from mmkd.family.sizes import small_size

    table = Table('tap', 'level', 'shape for one image')
    cfg = load_config(args.config)
    for name, shapes in all_taps(build_model(model_config(cfg)), [small_size(cfg)]):
        if args.match in name:
            for level, shape in enumerate(shapes):
                table.add_row(name if level == 0 else '', str(level), 'x'.join(map(str, shape)))
    Console(width=100, soft_wrap=True).print(table)
