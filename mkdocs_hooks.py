"""What the site of the documentation takes from beside ``docs``: the README and other pages."""

from __future__ import annotations

import os.path
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
PAGES = {
    'README.md': 'index.md',
    'README_zh-CN.md': 'zh.md',
    'CHANGELOG.md': 'changelog.md',
    'CONTRIBUTING.md': 'contributing.md',
    'benchmarks/README.md': 'benchmarks.md',
}
"""Files of the repository, and where they are on the site."""
LINK = re.compile(r'(?<!!)\[([^\]]*)\]\(([^)#\s:]+)(#[^)]*)?\)')


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie elsewhere."""
    from mkdocs.structure.files import File

    for source, place in PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(text: str, page: Any, **others: Any) -> str:
    """Let links lead to pages of the site; a file that is none is named."""
    text = text.replace('<details>', '<details markdown="1">')
    return relinked(text, page.file.src_uri)


def relinked(text: str, place: str) -> str:
    """A page's text with its links as the site needs them.

    >>> relinked('[own](docs/own_data.md), [setup](setup.py)', 'index.md')
    '[own](own_data.md), setup'
    """
    source = {place: source for source, place in PAGES.items()}.get(place, f'docs/{place}')

    def replaced(found: re.Match[str]) -> str:
        label, target, anchor = found[1], found[2], found[3] or ''
        path = os.path.normpath(os.path.join(os.path.dirname(source), target))
        there = PAGES.get(path, path.removeprefix('docs/') if path.startswith('docs/') else None)
        if there is not None:
            return f'[{label}]({os.path.relpath(there, os.path.dirname(place) or ".")}{anchor})'
        return label if (ROOT / path).exists() else found[0]

    return LINK.sub(replaced, text)
