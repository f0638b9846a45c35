"""Look whether the stack works, and print the cure if not.

Exit status 1 if something is broken.
"""

from __future__ import annotations

import argparse

COLOURS = {'ok': 'green', 'untested': 'yellow', 'broken': 'red'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(args: argparse.Namespace) -> bool:
    """Print the table; whether nothing is broken."""
    from rich.console import Console
    from rich.table import Table

    import mmkd  # noqa: F401  # cures what can be cured before the stack is looked at
    from mmkd.commands.doctor import examine, healthy

    findings = examine()
    table = Table('', 'found', 'tested', 'state')
    for item in findings:
        table.add_row(item.what, item.found, item.tested, f'[{COLOURS[item.state]}]{item.state}[/]')
    console = Console(soft_wrap=True)
    console.print(table)
    for item in findings:
        if item.cure:
            console.print(f'{item.what}: {item.cure}', markup=False)
    return healthy(findings)
