import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import helpers as h
import pytest
import torch
from mmengine.runner.checkpoint import _load_checkpoint

from mmkd.files.checkpoints import read_checkpoint


class Site:
    """A web site on this machine: contents by path, and how often each was asked for."""

    def __init__(self):
        self.files, self.asked, self.cut = {}, [], set()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                site.asked.append(self.path)
                content = site.files.get(self.path.split('?')[0])
                if content is None:
                    return self.send_error(404)
                self.send_response(200)
                self.send_header('Content-Length', str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2 if self.path in site.cut else None])

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def put(self, path, value, folder):
        torch.save(dict(state_dict=dict(a=torch.full((1,), value))), folder / 'x.pth')
        self.files[path] = (folder / 'x.pth').read_bytes()
        return f'http://127.0.0.1:{self.server.server_port}{path}'


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


def value(url):
    return read_checkpoint(url)['state_dict']['a'].item()


def cached(tmp_path):
    return list((tmp_path / 'hub/checkpoints').iterdir())


def test_two_urls_that_end_alike_are_two_files_and_each_is_fetched_once(site, tmp_path):
    urls = [
        site.put(path, number, tmp_path)
        for path, number in (('/a/best.pth', 1.0), ('/b/best.pth', 2.0))
    ]
    for _ in range(2):
        assert [value(url) for url in urls] == [1.0, 2.0]
    assert site.asked == ['/a/best.pth', '/b/best.pth']
    assert _load_checkpoint(urls[1])['state_dict']['a'] == 2.0  # what init_cfg and load_from call
    assert len(site.asked) == 2


def test_a_file_must_have_the_hash_of_its_name(site, tmp_path):
    site.put('/x.pth', 1.0, tmp_path)
    digest = hashlib.sha256(site.files['/x.pth']).hexdigest()[:8]
    content = site.files['/x.pth']
    wrong = site.put('/r50-00c0ffee.pth', 1.0, tmp_path)
    site.files['/r50-00c0ffee.pth'] = content
    message = h.message_of(read_checkpoint, wrong)
    assert f'its sha256 begins with {digest}; by its name it should be 00c0ffee' in message
    assert cached(tmp_path) == []
    site.files[f'/r50-{digest}.pth'] = content
    right = wrong.replace('00c0ffee', digest)
    assert value(right) == 1.0
    [file] = cached(tmp_path)
    assert file.name == f'r50-{digest}.pth'  # where torch and mmengine look for it, too
    file.write_bytes(b'another one')
    assert value(right) == 1.0
    assert site.asked[1:] == [f'/r50-{digest}.pth'] * 2


def test_a_download_that_breaks_off_leaves_nothing(site, tmp_path):
    url = site.put('/c.pth', 3.0, tmp_path)
    site.cut.add('/c.pth')
    message = h.message_of(read_checkpoint, url)
    assert 'cannot be downloaded' in message
    assert 'give the path of the file' in message
    assert cached(tmp_path) == []
    site.cut.clear()
    assert value(url) == 3.0


def test_what_is_not_there_is_named(site):
    assert '404' in h.message_of(
        read_checkpoint, f'http://127.0.0.1:{site.server.server_port}/none.pth'
    )
    site.server.server_close()
    assert 'cannot be downloaded' in h.message_of(
        read_checkpoint, f'http://127.0.0.1:{site.server.server_port}/none.pth'
    )
