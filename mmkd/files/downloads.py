"""Checkpoints from the web: each is fetched once, whole, and is the one that was asked for."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from mmengine.logging import print_log

from ..errors import InputError

BLOCK = 2**20
PATIENCE = 60
"""Seconds without an answer after which a download is given up."""


def downloaded(url: str) -> Path:
    """The file of a URL, in torch's cache.

    Names of OpenMMLab and of torch end in the beginning of the file's sha256. Such a file lies where torch
    and mmengine put it, and is checked whenever it is taken. Of other URLs two may end in the same name,
    so the whole URL is in the name of the file.
    """
    name, folder = Path(urlparse(url).path).name, Path(torch.hub.get_dir()) / 'checkpoints'
    expected = digest_in(name)
    key = hashlib.sha256(url.encode()).hexdigest()[:16]
    target = folder / (name if expected else f'{key}-{name}')
    if not target.exists() or (expected and not _digest(target).startswith(expected)):
        try:
            _fetch(url, target, expected)
        except (OSError, HTTPException, ValueError) as error:
            raise InputError(
                f'checkpoint {url}: cannot be downloaded ({error}); fetch it by other means and '
                'give the path of the file'
            ) from error
    return target


def digest_in(name: str) -> str:
    """The beginning of the sha256 that a file's name carries; a date is none.

    >>> digest_in('retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth'), digest_in('r50-20200130.pth')
    ('c2398f9e', '')
    """
    found = re.search(r'-([0-9a-f]{8,64})\.\w+$', name)
    return '' if found is None or re.fullmatch(r'(19|20)\d{6}', found[1]) else found[1]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _fetch(url: str, target: Path, expected: str) -> None:
    """Write a file beside its place, and move it there if it is whole and the right one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f'{target.name}.{uuid.uuid4().hex}.part')
    print_log(f'downloading {url} to {target}', 'current')
    try:
        with urlopen(Request(url, headers={'User-Agent': 'mmkd'}), timeout=PATIENCE) as answer:
            with part.open('wb') as file:
                while block := answer.read(BLOCK):
                    file.write(block)
            promised = answer.headers.get('Content-Length')
        if promised is not None and part.stat().st_size != int(promised):
            raise OSError(f'{part.stat().st_size} of {promised} bytes came')
        found = _digest(part)
        if not found.startswith(expected):
            raise OSError(
                f'its sha256 begins with {found[:8]}; by its name it should be {expected}'
            )
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
