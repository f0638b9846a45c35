"""The page about a method of one's own: its example is built and trained from its file, as it says."""

import re
from pathlib import Path

import helpers as h
import pytest
import torch
from mmengine.config import Config

import mmkd
from mmkd.core.method import method_names
from mmkd.registry import MODELS

PAGE = Path(__file__).parents[2] / 'docs/own_method.md'
STUDENT = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The page's code in a file of its own, imported as a config's custom_imports does."""
    (code,) = re.findall(r'```python\n(import mmkd\n.*?)```', PAGE.read_text(), re.S)
    (tmp_path / 'page_methods.py').write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    config = tmp_path / 'plain.py'
    config.write_text(f"_base_ = ['{STUDENT}']\ncustom_imports = dict(imports=['page_methods'])\n")
    yield config
    MODELS.module_dict.pop('Cosine', None)


def test_the_flag_finds_the_example_and_it_trains(example):
    Config.fromfile(example)
    assert 'cosine' in method_names()
    cfg = mmkd.distill(example, 'cosine:3', teacher='t.py', checkpoint='t.pth')
    assert cfg.model.methods == dict(cosine=dict(type='mmkd.Cosine', weight=3.0))
    assert cfg.custom_imports.imports == ['mmkd', 'page_methods']
    model = h.distiller(h.retinanet(), h.retinanet(width=16), cosine=dict(type='mmkd.Cosine'))
    assert model.distillation.cosine.weight(0.0) == 2.0
    h.losses_of(model, 'retinanet')['cosine/loss'].backward()
    assert sum(p.grad.abs().sum() for p in model.neck.parameters() if p.grad is not None) > 0
    student, teacher = torch.rand(2, 1, 3, 2, 2)
    cosine = torch.cosine_similarity(student, teacher, dim=1)
    got = model.distillation.cosine.distance(student, teacher)
    torch.testing.assert_close(got, (1 - cosine).mean(), rtol=1e-4, atol=1e-5)


def test_a_list_of_imports_takes_the_place_of_the_bases(example, tmp_path):
    """What the page says of custom_imports."""
    own = tmp_path / 'own.py'
    own.write_text("_base_ = ['plain.py']\ncustom_imports = dict(imports=['mmkd'])\n")
    assert Config.fromfile(own).custom_imports.imports == ['mmkd']
