"""Draw the embedded data set."""

import argparse
from dataclasses import fields

from mmkd.commands.tool import run_tool
from mmkd.datasets import ShapesSpec, make_shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', nargs='?', default='data/shapes', help='the folder to draw into')
    for field in fields(ShapesSpec):
        parser.add_argument(f'--{field.name}', type=int, default=field.default)
    options = vars(parser.parse_args())
    root = make_shapes(options.pop('root'), ShapesSpec(**options))
    print(f'data set in {root}')


if __name__ == '__main__':
    run_tool(main)
