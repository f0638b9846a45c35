"""Pieces of HTML that several parts of the page are made of."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

GOOD, BAD = '59,130,246', '239,68,68'
"""Colours of cells, as red, green and blue; their strength is the value."""


def card(title: str, body: str) -> str:
    """A part of the page with a heading."""
    return f'<section class="card"><h2>{escape(title)}</h2>{body}</section>'


def said(text: str) -> str:
    """A sentence below a heading.

    >>> said('a < b')
    '<p class="dim">a &lt; b</p>'
    """
    return f'<p class="dim">{escape(text)}</p>'


def table(heads: Sequence[str], rows: Iterable[str], texts: int = 1) -> str:
    """A table of rows that are HTML already; the first columns are texts."""
    head = ''.join(
        f'<th{" class=text" if i < texts else ""}>{escape(h)}</th>' for i, h in enumerate(heads)
    )
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def image(content: bytes, kind: str, words: str, style: str = '') -> str:
    """A picture that is part of the page."""
    data = base64.b64encode(content).decode()
    look = f' class="{style}"' if style else ''
    return f'<img{look} alt="{escape(words)}" src="data:image/{kind};base64,{data}">'


def matrix(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    texts: Sequence[Sequence[str]],
    strength: np.ndarray,
    wrong: np.ndarray | None = None,
) -> str:
    """A table whose cells are coloured.

    Args:
        title: in the corner.
        rows: names.
        columns: names.
        texts: what the cells say.
        strength: of their colours, 0 to 1.
        wrong: which cells are coloured as bad.
    """
    heads = ''.join(f'<th><span>{escape(name)}</span></th>' for name in columns)
    body = []
    for i, name in enumerate(rows):
        cells = []
        for j, text in enumerate(texts[i]):
            colour = BAD if wrong is not None and wrong[i, j] else GOOD
            alpha = 0.75 * float(np.nan_to_num(strength[i, j]).clip(0, 1))
            style = f' style="background:rgba({colour},{alpha:.2f})"' if alpha >= 0.01 else ''
            cells.append(f'<td{style}>{escape(text)}</td>')
        body.append(f'<tr><th class="text">{escape(name)}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="wide"><table class="matrix"><tr><th class="text">{escape(title)}</th>{heads}</tr>'
        f'{"".join(body)}</table></div>'
    )
