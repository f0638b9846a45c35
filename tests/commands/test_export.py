import helpers as h
import pytest
import torch
from mmengine.config import Config

import mmkd
from mmkd import InputError
from mmkd.commands.export import export_student
from mmkd.family.building import build_model


@pytest.fixture
def trained(tmp_path):
    """A distillation config and a checkpoint as training writes it."""
    plain = Config(dict(model=h.retinanet(), work_dir='w'))
    cfg = mmkd.distill(plain, 'fitnet', teacher='t.py', checkpoint='t.pth')
    model = h.distiller(
        h.retinanet(), h.retinanet(width=16), fitnet=dict(type='mmkd.FitNet', tap='backbone.layer4')
    )
    content = dict(
        meta=dict(dataset_meta=dict(classes=('a', 'b')), epoch=2, iter=8, cfg='long text'),
        state_dict=model.state_dict(),
        optimizer=dict(state={0: torch.ones(1000)}),
        ema_state_dict={f'module.{k}': v for k, v in model.state_dict().items()},
    )
    torch.save(content, tmp_path / 'c.pth')
    return cfg, tmp_path / 'c.pth', model


def test_the_export_is_the_plain_student_and_nothing_else(trained, tmp_path):
    cfg, checkpoint, model = trained
    config, weights = export_student(cfg, checkpoint, tmp_path / 'out')
    content = torch.load(weights, weights_only=True)
    assert set(content) == {'meta', 'state_dict'}
    assert content['meta'] == dict(dataset_meta=dict(classes=('a', 'b')), epoch=2, iter=8)
    plain = build_model(dict(Config.fromfile(config).model, _scope_='mmdet'))
    plain.load_state_dict(content['state_dict'], strict=True)
    own = {k: v for k, v in model.state_dict().items() if not k.startswith('distillation.')}
    assert all(torch.equal(v, own[k]) for k, v in content['state_dict'].items())
    tensors = sum(v.numel() * v.element_size() for v in own.values())
    assert weights.stat().st_size < tensors * 1.25 + 60_000
    assert 'mmkd' not in config.read_text()


def test_a_checkpoint_without_weights_is_named(trained, tmp_path):
    torch.save(dict(meta={}), tmp_path / 'empty.pth')
    with pytest.raises(InputError, match=r'empty\.pth: holds no model weights'):
        export_student(trained[0], tmp_path / 'empty.pth', tmp_path / 'out')


@pytest.mark.parametrize('other', [h.retinanet(width=16), h.classifier()])
def test_a_checkpoint_of_another_model_is_refused(other, trained, tmp_path):
    torch.save(dict(state_dict=build_model(other).state_dict()), tmp_path / 'other.pth')
    with pytest.raises(
        InputError, match=r'other\.pth: does not fit the config: .*(missing|misshaped)'
    ):
        export_student(trained[0], tmp_path / 'other.pth', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_folder_that_is_a_file_is_named(trained, tmp_path):
    (tmp_path / 'out').write_text('')
    with pytest.raises(
        InputError, match=r'--out .*out: cannot be written into \(.* is no folder\)'
    ):
        export_student(trained[0], trained[1], tmp_path / 'out')
