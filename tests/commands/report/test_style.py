"""Colours for light and for dark, and a script that is one."""

import re

from mmkd.commands.report.style import CSS, SCRIPT


def test_every_colour_has_a_dark_twin():
    light, dark = re.findall(r':root \{(.*?)\}', CSS, re.S)[:2]
    names = [set(re.findall(r'(--\w+):', text)) for text in (light, dark)]
    assert names[0] == names[1]
    assert set(re.findall(r'var\((--\w+)\)', CSS + SCRIPT)) <= names[0]


def test_braces_are_closed():
    for text in (CSS, SCRIPT):
        assert text.count('{') == text.count('}')
