"""Print every place of a config's model that can be tapped, with the shapes that pass there."""

import argparse

from rich.console import Console
from rich.table import Table

from mmkd.commands.tool import run_tool
from mmkd.family.building import build_model, load_config, model_config
from mmkd.family.running import all_taps
from mmkd.family.sizes import small_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config', help='a config of any project; of a Distiller the student is shown'
    )
    parser.add_argument('--match', default='', help='only names that contain this')
    args = parser.parse_args()
    table = Table('tap', 'level', 'shape for one image')
    cfg = load_config(args.config)
    for name, shapes in all_taps(build_model(model_config(cfg)), [small_size(cfg)]):
        if args.match in name:
            for level, shape in enumerate(shapes):
                table.add_row(name if level == 0 else '', str(level), 'x'.join(map(str, shape)))
    Console(width=100, soft_wrap=True).print(table)


if __name__ == '__main__':
    run_tool(main)
