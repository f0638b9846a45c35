"""Print the stack found, what was tested, what is broken and the cure; exit status 1 if broken."""

import sys

from rich.console import Console
from rich.table import Table

import mmkd  # noqa: F401  # cures what can be cured before the stack is looked at
from mmkd.commands.doctor import examine, healthy

COLOURS = {'ok': 'green', 'untested': 'yellow', 'broken': 'red'}


def main() -> None:
    findings = examine()
    table = Table('', 'found', 'tested', 'state')
    for item in findings:
        table.add_row(item.what, item.found, item.tested, f'[{COLOURS[item.state]}]{item.state}[/]')
    console = Console(soft_wrap=True)
    console.print(table)
    for item in findings:
        if item.cure:
            console.print(f'{item.what}: {item.cure}', markup=False)
    sys.exit(0 if healthy(findings) else 1)


if __name__ == '__main__':
    main()
