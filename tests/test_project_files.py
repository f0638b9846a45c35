"""What other tools read of the repository: metafiles, the citation, what a wheel has."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from mmengine.hub import get_config

from mmkd import __version__

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(p for p in (ROOT / 'configs').iterdir() if p.is_dir() and p.name[0] != '_')


def test_the_index_has_every_folder():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert index['Import'] == [f'configs/{folder.name}/metafile.yml' for folder in FOLDERS]
    assert yaml.safe_load((ROOT / 'mmkd/.mim/model-index.yml').read_text()) == index


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda folder: folder.name)
def test_a_metafile_has_every_config_and_claims_nothing(folder):
    meta = yaml.safe_load((folder / 'metafile.yml').read_text())
    configs = [model['Config'] for model in meta['Models']]
    assert configs == [str(path.relative_to(ROOT)) for path in sorted(folder.glob('*.py'))]
    names = {collection['Name'] for collection in meta['Collections']}
    assert {model['In Collection'] for model in meta['Models']} == names
    assert all((ROOT / collection['README']).exists() for collection in meta['Collections'])
    assert not any(model.keys() & {'Results', 'Weights'} for model in meta['Models'])


def test_the_names_of_models_are_their_own():
    metas = [yaml.safe_load((folder / 'metafile.yml').read_text()) for folder in FOLDERS]
    names = [model['Name'] for meta in metas for model in meta['Models']]
    assert len(names) == len(set(names))


def test_mmengine_finds_a_config_by_the_index():
    assert get_config('mmkd::shapes/rtmdet_pico_shapes.py').model.type == 'RTMDet'


def test_the_citation_is_of_this_version():
    assert yaml.safe_load((ROOT / 'CITATION.cff').read_text())['version'] == __version__
