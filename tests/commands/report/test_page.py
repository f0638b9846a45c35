"""The page says what the numbers say, and a browser draws what the log has."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import report_logs as logs

import mmkd_cli
from mmkd.commands.report import write_report
from mmkd.commands.report.charts import COUNTERS
from mmkd.commands.report.runs import QUIET, read_training

BROWSER = (
    shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
)


def text_of(page):
    """What the page says, without its tags, scripts and styles."""
    body = page.read_text().partition('<body>')[2]
    for kind in ('script', 'pre'):
        body = re.sub(rf'<{kind}\b.*?</{kind}>', '', body, flags=re.S)
    return ' '.join(html.unescape(re.sub(r'<[^>]+>', ' ', body)).split())


@pytest.fixture
def seeds(tmp_path):
    """Three seeds of two arms."""
    for seed, (alone, distilled) in enumerate([(0.3, 0.5), (0.31, 0.52), (0.29, 0.48)]):
        logs.trained(tmp_path / f'alone_{seed}', alone, distilled=False, seed=seed)
        logs.trained(tmp_path / f'dpk_{seed}', distilled, seed=seed)
    folder = tmp_path / 'teacher/20260101_000000'
    folder.mkdir(parents=True)
    (folder / '20260101_000000.json').write_text('{"coco/bbox_mAP": 0.7}')
    return tmp_path


def report(folder, **options):
    folders = {part: sorted(folder.glob(f'{part}_*')) for part in ('dpk', 'alone')}
    teacher = folder / 'teacher' if (folder / 'teacher').exists() else None
    out = folder / 'page.html'
    return write_report(
        folders['dpk'], baseline=folders['alone'], teacher_dir=teacher, out=out, **options
    )


def test_the_verdict_of_seeds_with_a_baseline(seeds):
    said = text_of(report(seeds))
    assert 'finished dpk: coco/bbox_mAP 0.5000, 0.2000 above the student alone' in said
    assert re.search(r'dpk 0\.5000 \+0\.2000 \+0\.1752 to \+0\.2248 GO 0\.0200 3 1\.00', said)
    assert 'teacher 0.7000' in said
    assert said.index('What became worse Nothing') < said.index('What became better')


def test_what_became_worse_is_named_first(tmp_path):
    logs.trained(tmp_path / 'alone_0', 0.35, distilled=False)
    logs.trained(tmp_path / 'dpk_0', 0.30)
    said = text_of(report(tmp_path))
    assert 'dpk: coco/bbox_mAP 0.3000, 0.0500 below the student alone' in said
    worse = said[said.index('What became worse') :]
    order = [worse.index(f'{n} -0') for n in ('coco/ring_precision', 'coco/bbox_mAP', 'coco/star')
             if f'{n} -0' in worse]  # fmt: skip
    assert len(order) == 2
    assert order == sorted(order)
    assert 'better' not in said


def test_a_training_that_runs(tmp_path):
    logs.work_dir(tmp_path / 'dpk_0', [logs.entry(5)], model=logs.DPK)
    said = text_of(report(tmp_path))
    assert 'running dpk: epoch 1 of 2 Nothing is validated yet.' in said
    logs.trained(tmp_path / 'dpk_1', 0.4, epochs=9, seed=1)
    assert 'nothing to compare with: --baseline DIR' in text_of(report(tmp_path))


def test_a_training_that_stopped_says_where_and_why(tmp_path):
    folder = logs.trained(tmp_path / 'dpk_0', 0.4, epochs=9, age=2 * QUIET)
    assert 'dpk_0 stopped at epoch 2 of 9; its log says no more' in text_of(report(tmp_path))
    (folder / 'summary.json').write_text(json.dumps(dict(error='not finite: kd/loss = nan')))
    assert 'dpk_0 stopped at epoch 2 of 9: not finite: kd/loss = nan' in text_of(report(tmp_path))


def test_what_a_training_has_said_at_its_start_is_shown(tmp_path):
    folder = logs.trained(tmp_path / 'dpk_0', 0.4)
    data, student = (
        dict(train=100, val=20),
        dict(type='GFL', parameters=2_000_000, trained=2_000_000),
    )
    content = dict(student=student, data=data, max_iters=20, seed=0, command='mmkd train my.py',
                   versions=dict(torch='2.13.0'))  # fmt: skip
    (folder / 'summary.json').write_text(json.dumps(content))
    page = report(tmp_path).read_text()
    for words in (
        'GFL, 2.00 M parameters',
        '100 images to train',
        'mmkd train my.py',
        'torch 2.13.0',
    ):
        assert words in page


def test_the_page_needs_nothing_else(seeds):
    page = report(seeds).read_text()
    assert not re.search(r'<(script|link|img|iframe)[^>]+(src|href)="(?!data:)', page)
    assert not re.search(r'@import|url\(', page.partition('</style>')[0])
    assert 'name="viewport"' in page
    assert 'prefers-color-scheme: dark' in page
    assert len(page) < 3e6


def test_a_name_is_no_html(tmp_path):
    logs.trained(tmp_path / 'dpk_<b>x', 0.4, epochs=9, age=2 * QUIET)
    page = report(tmp_path).read_text()
    assert '<b>x' not in page.partition('<script')[0] + page.rpartition('</script>')[2]
    assert 'dpk_&lt;b&gt;x' in page


def test_the_command_writes_beside_the_run(seeds, capsys):
    mmkd_cli.main(['report', str(seeds / 'dpk_0'), '--baseline', str(seeds / 'alone_0')])
    assert capsys.readouterr().out == f'{seeds / "dpk_0/report.html"}\n'
    assert 'above the student alone' in text_of(seeds / 'dpk_0/report.html')


# -- in a browser ----------------------------------------------------------------------------------

LISTEN = """<script>
const heard = [];
addEventListener('error', e => heard.push(String(e.message)));
const say = console.error; console.error = (...all) => { heard.push(all.join(' ')); say(...all); };
</script>"""
TELL = """<pre id="told"></pre><script>
const wait = setInterval(() => {
  if (document.body.dataset.ready !== 'yes') return;
  clearInterval(wait);
  const button = document.querySelector('.names button[data-key="task loss"]');
  const lines = () => figures().find(f => f.name === 'task').renderers.filter(r => r.tags[0] === 'loss');
  const shown = [lines().every(r => r.visible)];
  button.click(); shown.push(lines().some(r => r.visible));
  button.click(); shown.push(lines().every(r => r.visible));
  const data = {};
  for (const figure of figures()) for (const line of figure.renderers) {
    const {name, data: own} = line.data_source;
    if (name) data[name] = ['x', 'y'].map(k => [...(own.get ? own.get(k) : own[k])]);
  }
  const wide = document.documentElement.scrollWidth <= innerWidth;
  const canvases = figures().length;
  const pictures = [...document.images].filter(i => i.complete && i.naturalWidth > 0).length;
  document.getElementById('told').textContent = JSON.stringify({data, heard, shown, wide, canvases, pictures});
}, 50);
</script>"""
HARMLESS = 'ResizeObserver loop completed with undelivered notifications.'
"""A chart that grows while it is laid out once more."""


def in_browser(page, folder, width, *flags):
    """What a page says of itself in a headless Chromium; its console has the library's greeting alone."""
    probe = folder / 'probe.html'
    text = page.read_text().replace('<head>', f'<head>{LISTEN}', 1)
    probe.write_text(text.replace('</main>', f'</main>{TELL}', 1))
    command = [
        BROWSER, '--headless=new', '--no-sandbox', '--disable-gpu', '--enable-logging=stderr',
        f'--user-data-dir={folder / "profile"}', f'--window-size={width},900',
        '--virtual-time-budget=20000', '--dump-dom', *flags, f'file://{probe}',
    ]  # fmt: skip
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, 'HOME': str(folder)},
    )
    said = re.findall(r'CONSOLE[:(].*?"(.*)", source', result.stderr)
    assert [line for line in said if '[bokeh' not in line and HARMLESS not in line] == []
    told = re.search(r'<pre id="told">(.*?)</pre>', result.stdout, re.S)
    assert told, result.stderr[-2000:]
    return json.loads(html.unescape(told[1]))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason='needs Chromium: apt-get install chromium')
@pytest.mark.parametrize(
    ('width', 'flags'), [(1280, ()), (400, ('--blink-settings=preferredColorScheme=0',))]
)
def test_a_browser_draws_what_the_log_has(seeds, width, flags):
    told = in_browser(report(seeds), seeds, width, *flags)
    assert [word for word in told['heard'] if word != HARMLESS] == []
    assert told['wide'], 'the page is wider than the screen'
    assert told['shown'] == [True, False, True]
    training = read_training(seeds / 'dpk_1')
    for key, entries in (('dpk/ratio.P3', training.train), ('coco/bbox_mAP', training.val)):
        (name,) = [n for n in told['data'] if json.loads(n)[1:] == ['dpk, seed 1', key]]
        assert told['data'][name] == [[e['step'] for e in entries], [e[key] for e in entries]]
    names = {json.loads(name)[2] for name in told['data']}
    logged = {k for e in (*training.train, *training.val) for k in e} - COUNTERS
    assert names == logged - {'coco/bbox_mAP_l'}


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason='needs Chromium: apt-get install chromium')
@pytest.mark.parametrize('width', [1280, 400])
def test_a_browser_shows_what_networks_show(shapes, tmp_path, width):
    runs = logs.with_networks(tmp_path, shapes)
    page = write_report([runs / 'distilled'], baseline=[runs / 'alone'], images=4)
    told = in_browser(page, runs, width)
    assert [word for word in told['heard'] if word != HARMLESS] == []
    assert told['wide'], 'the page is wider than the screen'
    assert told['pictures'] == 1 + 3 * (
        1 + 3 * 5
    )  # boxes; images, each with three maps of five levels


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason='needs Chromium: apt-get install chromium')
def test_an_error_of_the_page_would_be_heard(seeds):
    page = Path(report(seeds))
    page.write_text(page.read_text().replace('const dark =', 'missing(); const dark ='))
    with pytest.raises(AssertionError, match='missing is not defined'):
        in_browser(page, seeds, 1280)
