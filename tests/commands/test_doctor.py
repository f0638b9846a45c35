import re
from pathlib import Path

from mmkd.commands import doctor

ROOT = Path(__file__).parents[2]


def test_this_stack_is_healthy():
    findings = doctor.examine()
    assert doctor.healthy(findings), [f for f in findings if f.state == 'broken']
    assert {'torch', 'mmcv operators', 'torchvision', 'mmkd configs'} <= {f.what for f in findings}


def test_the_tested_versions_are_those_of_the_requirements():
    pinned = dict(re.findall(r'^([\w-]+)==(.+)$', (ROOT / 'requirements.txt').read_text(), re.M))
    assert {name: pinned[name] for name in doctor.TESTED} == doctor.TESTED


def test_an_absent_package_is_broken_with_its_cure(monkeypatch):
    def absent(name):
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, 'version', absent)
    finding = doctor._package('pycocotools')
    assert (finding.state, finding.cure) == ('broken', 'pip install pycocotools==2.0.11')
    assert '--no-build-isolation' in doctor._package('onedl-mmcv').cure


def test_another_version_is_untested(monkeypatch):
    monkeypatch.setattr(doctor, 'version', lambda name: '9.9')
    assert doctor._package('torch').state == 'untested'


def test_a_retired_distribution_beside_the_maintained_is_broken(monkeypatch):
    monkeypatch.setattr(doctor, 'version', lambda name: '1.0')
    broken = {finding.what: finding.cure for finding in doctor._retired()}
    assert 'pip uninstall mmcv' in broken['mmcv']


def test_what_fails_to_work_is_told_in_one_line():
    def fail():
        raise RuntimeError('operators missing\nmore')

    finding = doctor._attempt('mmcv operators', fail, 'build it')
    assert (finding.state, finding.found) == ('broken', 'RuntimeError: operators missing')
