"""List the methods, or the options of one.

examples:
  mmkd methods
  mmkd methods dpk
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which method."""
    parser.add_argument('method', nargs='?', help='pkd, dpk, ...; without it all are listed')


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    from mmkd.commands.methods import show_method, show_methods

    if args.method is None:
        show_methods()
    else:
        show_method(args.method)
