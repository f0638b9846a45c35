"""What the command lines share: arguments, and wrong input as one message."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any

from mmengine.config import DictAction

from ..errors import InputError
from ..training.processes import leave_ranks


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as a nest of dicts.

    >>> nested({'pkd.weight': 3.0, 'teacher.precision': 'bf16'})
    {'pkd': {'weight': 3.0}, 'teacher': {'precision': 'bf16'}}
    """
    result: dict[str, Any] = {}
    for key, value in options.items():
        *path, last = key.split('.')
        place = result
        for name in path:
            place = place.setdefault(name, {})
        place[last] = value
    return result


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that training and testing share."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help="overrides of the config (before it is distilled): key=value, lists as 'key=[a,b]'",
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='unpickle checkpoints without restriction; they can execute code',
    )


def run_tool(main: Callable[[], Any]) -> None:
    """Run a tool; wrong input ends it with one message and exit status 2 instead of a traceback."""
    status: Any = None
    try:
        main()
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        status = 2
    except SystemExit as stop:
        status = stop.code
    leave_ranks()  # here, where nothing of the run is alive any more
    if status is not None:
        sys.exit(status)
