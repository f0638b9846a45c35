"""Everything that was logged is in a chart, with the numbers of the log."""

import builtins
import re

import pytest
import report_logs as logs

from mmkd import InputError
from mmkd.commands.report.charts import COUNTERS, draw, lines_of, run_name
from mmkd.commands.report.runs import name_arms, read_training


def some(tmp_path, *seeds):
    found = [read_training(logs.trained(tmp_path / str(s), 0.4, seed=s)) for s in seeds]
    name_arms(found, [])
    return found


def test_lines_have_all_numbers_of_the_log(tmp_path):
    (training,) = some(tmp_path, 0)
    sections = lines_of([training], 'coco/bbox_mAP')
    drawn = {line.name: (line.x, line.y) for lines in sections.values() for line in lines}
    for entries in (training.train, training.val):
        for name in entries[0].keys() - COUNTERS:
            if name in ('time', 'data_time') or name.endswith('_l'):
                continue
            expected = [e['step'] for e in entries], [e[name] for e in entries]
            assert drawn[name] == expected
    assert 'coco/bbox_mAP_l' not in drawn  # -1: there is nothing of that size
    assert [line.name for line in sections['score']] == ['coco/bbox_mAP']


def test_runs_of_an_arm_are_told_apart_by_seed(tmp_path):
    trainings = some(tmp_path, 0, 5)
    assert [run_name(t, trainings) for t in trainings] == ['dpk, seed 0', 'dpk, seed 5']
    assert run_name(trainings[0], trainings[:1]) == 'dpk'


def test_the_script_has_the_lines(tmp_path):
    sections = lines_of(some(tmp_path, 0), 'coco/bbox_mAP')
    charts, script, library = draw(sections, 0.7, True)
    assert [chart.section for chart in charts] == list(sections)
    assert {n: shown for n, _, shown in charts[1].names} == {
        'coco/ring_precision': True, 'coco/star_precision': True,
    }  # fmt: skip
    assert 'dpk/ratio.P3' in script
    assert 'bokeh' in library
    assert not re.search(r'<(script|link)[^>]+(src|href)=', library)
    assert draw({}, None, True) == ([], '', '')


def test_without_the_library_it_is_named(monkeypatch):
    real = builtins.__import__

    def absent(name, *args):
        if name.startswith('bokeh'):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, '__import__', absent)
    with pytest.raises(InputError, match=r"bokeh is not installed; pip install 'mmkd\[report\]'"):
        draw({}, None, True)
