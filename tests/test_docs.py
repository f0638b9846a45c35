"""The pages: all in the site, links that lead somewhere, commands that parse, messages that exist."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import mmkd_cli
from mkdocs_hooks import PAGES, relinked
from mmkd.core.method import method_names

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / 'docs').rglob('*.md'))
SOURCES = [*DOCS, *(ROOT / source for source in PAGES)]


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def nav_of(entries):
    """The pages of a nav, in order."""
    found = []
    for entry in entries:
        (value,) = entry.values()
        found += [value] if isinstance(value, str) else nav_of(value)
    return found


def test_the_nav_names_every_page_once():
    # its markdown extensions are names of functions to a full loader; none is needed here
    config = yaml.safe_load((ROOT / 'mkdocs.yml').read_text())
    pages = {str(path.relative_to(ROOT / 'docs')) for path in DOCS} | set(PAGES.values())
    nav = nav_of(config['nav'])
    assert len(nav) == len(set(nav))
    assert set(nav) == pages


def test_every_method_has_a_page():
    ours = {n for n, kind in method_names().items() if kind.__module__.startswith('mmkd.methods.')}
    pages = {path.stem.replace('_', '') for path in (ROOT / 'docs/methods').glob('*.md')}
    assert pages == ours


def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip('mkdocs')
    result = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    page = (tmp_path / 'index.html').read_text()
    assert 'href="quick_start.html"' in page
    assert 'fonts.googleapis' not in page


def test_links_of_the_site_are_those_of_the_repository():
    assert relinked('[a](../benchmarks/README.md), [b](hooks.md#x)', 'faq.md') == (
        '[a](benchmarks.md), [b](hooks.md#x)'
    )
    assert relinked('[a](../../README.md) [b](../../Makefile)', 'methods/pkd.md') == (
        '[a](../index.md) b'
    )


@pytest.mark.parametrize('path', SOURCES, ids=names(SOURCES))
def test_links_lead_to_files_and_commands_parse(path):
    text = path.read_text()
    for target in re.findall(r'(?<!!)\[[^\]]*\]\(([^)#\s:]+)', text):
        assert (path.parent / target).exists(), target
    for line in re.findall(r'^ {4,}(mmkd .*)$', text.replace('\\\n', ' '), re.M):
        words = shlex.split(line.partition(' #')[0])[1:]
        if '...' not in words:
            mmkd_cli.main_parser().parse_args(words)


def said_by_the_code():
    """All text of the package, joined as Python joins it; what is filled in is left out."""
    texts = []
    for path in (ROOT / 'mmkd').rglob('*.py'):
        if '.mim' in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else '\0' for v in node.values]
                texts.append(''.join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


OTHERS = {"No module named 'mmcv._ext'"}
"""Messages of others."""


def test_troubleshooting_names_messages_that_exist():
    text, texts = (ROOT / 'docs/troubleshooting.md').read_text(), said_by_the_code()
    messages = re.findall(r'^\| `([^|]+?)` \|', text, re.M)
    assert len(messages) > 35
    for message in messages:
        assert message in OTHERS or any(message in said for said in texts), message


def words_of(node):
    """The text of a message; what is filled in is left out, but for what :func:`nearest` says."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return ''.join(words_of(value) for value in node.values)
    if isinstance(node, ast.BinOp):
        return words_of(node.left) + words_of(node.right)
    return 'nearest:' if 'nearest(' in ast.unparse(node) else '\0'


def errors_of(path):
    """Every input error that a file raises, as line and message."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ('InputError', 'DamagedError'):
            yield node.lineno, words_of(node.args[0])


def test_every_input_error_has_an_entry():
    text = (ROOT / 'docs/troubleshooting.md').read_text()
    entries = re.findall(r'^\| `([^|]+?)` \|', text, re.M)
    found, without = 0, []
    for path in sorted([*(ROOT / 'mmkd').rglob('*.py'), *(ROOT / 'mmkd_cli').rglob('*.py')]):
        for line, message in errors_of(path) if '.mim' not in path.parts else ():
            found += 1
            own = len(re.findall('[a-z]{2,}', message)) > 1  # else it passes another message on
            if own and not any(entry in message for entry in entries):
                without.append(f'{path.relative_to(ROOT)}, line {line}: {message!r}')
    assert found > 200
    assert not without, 'no entry in docs/troubleshooting.md:\n' + '\n'.join(without)
