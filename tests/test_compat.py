import subprocess
import sys

import pytest
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import MODELS

from mmkd.compat import prepare
from mmkd.family.building import load_config


def test_mmcls_names_imports_and_configs_are_mmpretrains():
    import mmcls.models
    import mmpretrain.models

    assert mmcls is mmpretrain
    assert mmcls.models is mmpretrain.models
    assert mmpretrain.models.__spec__.name == 'mmpretrain.models'
    assert MODELS.get('mmcls.ConvNeXt') is MODELS.get('mmpretrain.ConvNeXt')
    cfg = load_config('mmcls::resnet/resnet18_8xb32_in1k.py')
    assert cfg.model.type == 'ImageClassifier'


@pytest.mark.parametrize(
    'name',
    [
        'mmkd::shapes/rtmdet_tiny_shapes.py',
        'mmdet::gfl/gfl_r50_fpn_1x_coco.py',
        'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    ],
)
def test_package_configs_resolve(name, tmp_path):
    (tmp_path / 'c.py').write_text(f"_base_ = ['{name}']\n")
    assert load_config(tmp_path / 'c.py').model.type == load_config(name).model.type


def test_preparing_twice_changes_nothing():
    finders, packages = list(sys.meta_path), dict(MODULE2PACKAGE)
    prepare()
    assert sys.meta_path == finders
    assert packages == MODULE2PACKAGE


def test_torchvision_imports_after_mmkd_and_its_transforms_work():
    code = (
        'import mmkd, torch, torchvision.transforms.functional as F;'
        'print(F.resize(torch.zeros(3, 4, 4), [2, 2]).shape)'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.stdout.strip() == 'torch.Size([3, 2, 2])', result.stderr


def test_an_import_of_the_registry_alone_registers_everything():
    code = 'from mmengine.registry import MODELS; print(MODELS.get("mmkd.PKD").__module__)'
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.stdout.strip() == 'mmkd.methods.pkd', result.stderr
