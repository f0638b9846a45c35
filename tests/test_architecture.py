"""The rooms of the package: each says what it may import, nothing leads back up, each module has a test."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'mmkd'
MODULES = sorted(path for path in PACKAGE.rglob('*.py') if '.mim' not in path.parts)
ROOMS = sorted({path.relative_to(PACKAGE).parts[0] for path in MODULES if path.parent != PACKAGE})
TOP = [path for path in MODULES if path.parent == PACKAGE and path.stem[0] != '_']


def parts_of(path: Path) -> tuple[str, ...]:
    """A module's name below the package, as parts; a package's own module has its name."""
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return parts[:-1] if parts[-1] == '__init__' else parts


def imported(path: Path) -> set[tuple[str, ...]]:
    """The modules of the package that one imports, those of functions included."""
    package = path.relative_to(PACKAGE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            module = (*base, *(node.module or '').split('.')) if node.module else base
            found |= {module} if node.module else {(*module, alias.name) for alias in node.names}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            names = [node.module or ''] if isinstance(node, ast.ImportFrom) else names
            assert not any(n.split('.')[0] == 'mmkd' for n in names), f'{path}: absolute import'
    return found


def allowed(room: str) -> set[str]:
    """The rooms that one says it may import."""
    text = ' '.join((importlib.import_module(f'mmkd.{room}').__doc__ or '').split())
    listed = re.search(
        r'May import(?:: ([\w, ]+)| nothing but the modules of the top level)\.$', text
    )
    assert listed, f'mmkd/{room}/__init__.py does not end in what the room may import'
    return set((listed[1] or '').split(', ')) - {''}


@pytest.mark.parametrize('room', ROOMS)
def test_a_room_imports_what_it_says(room):
    used = set()
    for path in (PACKAGE / room).rglob('*.py'):
        others = {module[0] for module in imported(path)} - {room, *(p.stem for p in TOP)}
        assert others <= allowed(room), f'{path.relative_to(ROOT)} imports {others - allowed(room)}'
        used |= others
    assert used == allowed(room), f'{room} says it may import {allowed(room) - used} and does not'


def test_no_way_leads_back_up():
    left = {room: allowed(room) for room in ROOMS}
    while free := [room for room, needs in left.items() if not needs & left.keys()]:
        left = {room: needs for room, needs in left.items() if room not in free}
    assert not left, f'these rooms import each other in a circle: {sorted(left)}'


@pytest.mark.parametrize('path', TOP, ids=lambda path: path.stem)
def test_the_top_level_imports_no_room(path):
    assert not {module[0] for module in imported(path)} & set(ROOMS)


def test_no_method_imports_another():
    methods = PACKAGE / 'methods'
    for path in methods.rglob('*.py'):
        if path == methods / '__init__.py':
            continue
        own = path.relative_to(methods).with_suffix('').parts[0]
        others = {m[1] for m in imported(path) if m[0] == 'methods' and len(m) > 1} - {own}
        assert not others, f'{path.relative_to(ROOT)} imports {others}'


def test_no_module_is_another_one_with_a_suffix():
    """Within a room and the top level; a file of a method that is a folder lies beside its like."""
    for folder in {path.parent for path in MODULES}:
        names = [
            p.stem for p in [*folder.glob('*.py'), *folder.iterdir()] if '_' != p.stem[0] != '.'
        ]
        for short in set(names):
            longer = [n for n in names if n != short and n.startswith(short)]
            assert not longer, f'{folder.relative_to(ROOT)}: {short} and {longer}'


@pytest.mark.parametrize(
    'path',
    [p for p in MODULES if p.stem not in ('__init__', '__main__', 'version')],
    ids=lambda path: '.'.join(parts_of(path)),
)
def test_every_module_has_a_test_at_the_mirrored_path(path):
    place = path.relative_to(PACKAGE)
    assert (ROOT / 'tests' / place.parent / f'test_{place.name}').exists()
