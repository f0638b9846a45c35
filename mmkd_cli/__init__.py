"""The command line ``mmkd``: what is asked is read here, and done by a function of ``mmkd.commands``.

A file for each command: its docstring is its help, ``add_arguments`` its options, ``run`` calls mmkd. Before
``run`` nothing but the standard library is imported, so that help and a misspelt option take no seconds. So the
files do not lie in ``mmkd``, whose import brings torch.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from types import ModuleType

ABOUT = 'Knowledge distillation for models of mmdet, mmpretrain and mmsegmentation.'
EPILOG = """\
examples:
  mmkd demo                                     see it work, about 5 minutes on two cores
  mmkd train my.py                              train a plain config
  mmkd train my.py --distill pkd --teacher t.py --teacher-checkpoint t.pth
  mmkd report work_dirs/my_pkd --baseline work_dirs/my
  mmkd COMMAND --help                           options and examples of a command

exit status:
  0 done   1 it ran and did not come out well   2 wrong input, in one line
  130 Ctrl-C   143 terminated; the training can be resumed
"""


def names() -> list[str]:
    """The commands.

    >>> 'rank-teachers' in names()
    True
    """
    modules = (info.name for info in pkgutil.iter_modules(__path__))
    return [name.replace('_', '-') for name in modules if name != 'arguments']


def command(name: str) -> ModuleType:
    """The file of a command."""
    return importlib.import_module(f'.{name.replace("-", "_")}', __name__)


def summary(name: str) -> str:
    """The first line of a command's help.

    >>> summary('train')
    'Train any OpenMMLab config, plain or distilled.'
    """
    return (command(name).__doc__ or '').partition('\n')[0]


def fill(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    """Give a parser the help and the arguments of a command."""
    text, _, examples = (command(name).__doc__ or '').partition('\nexample')
    parser.description, parser.epilog = text.strip(), f'example{examples}' if examples else None
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    command(name).add_arguments(parser)
    return parser


def main_parser() -> argparse.ArgumentParser:
    """The parser of ``mmkd``."""
    parser = argparse.ArgumentParser(
        'mmkd',
        description=ABOUT,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'mmkd {version("mmkd")}')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name in names():
        fill(commands.add_parser(name, help=summary(name)), name)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """What ``mmkd`` and ``python -m mmkd`` do."""
    args = main_parser().parse_args(arguments)
    _run(args.command, args)


def run_tool(name: str) -> None:
    """What a script under ``tools/`` does: one command."""
    _run(name, fill(argparse.ArgumentParser(), name).parse_args())


def _run(name: str, args: argparse.Namespace) -> None:
    """Do what is asked; what is mmkd's own ends as :func:`mmkd.commands.tool.run_tool` says."""
    from mmkd.commands.tool import run_tool as guarded

    def work() -> None:
        if command(name).run(args) is False:
            sys.exit(1)

    guarded(work)
