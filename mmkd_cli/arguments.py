"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from typing import Any


class KeyValues(argparse.Action):
    """``KEY=VALUE ...`` as mmengine reads it, which is imported where one is given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Read them into a dict."""
        from mmengine.config import DictAction

        read = DictAction(self.option_strings, self.dest, nargs=self.nargs)
        try:
            read(parser, namespace, values, option_string)
        except ValueError:
            parser.error(f'argument {option_string}: {" ".join(values)!r}: needed: KEY=VALUE')


def add_config_options(parser: argparse.ArgumentParser, help: str) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE', help=help
    )


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add how ranks are started."""
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
        help='job launcher',
    )  # fmt: skip


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the way round the restriction on checkpoints."""
    parser.add_argument(
        '--trust-checkpoint', action='store_true',
        help='unpickle checkpoints without restriction; they can execute code',
    )  # fmt: skip
