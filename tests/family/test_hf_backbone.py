"""Networks of transformers as teachers answer what transformers itself answers."""

import json

import helpers as h
import pytest
import torch
from hostile import PAYLOADS

from mmkd import Tap, Teacher

BACKBONE = Tap('backbone')
SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
STAGES = dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
NETS = dict(
    ViT=dict(**SMALL, image_size=64, patch_size=16),
    Dinov2=dict(**SMALL, image_size=56, patch_size=14),
    Dinov2WithRegisters=dict(**SMALL, image_size=56, patch_size=14),
    DINOv3ViT=dict(**SMALL, image_size=64, patch_size=16, num_register_tokens=4),
    CLIPVision=dict(**SMALL, image_size=64, patch_size=16),
    ConvNext=STAGES,
    Swin=dict(embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], image_size=64),
    ResNet=dict(**STAGES, embedding_size=8, layer_type='basic'),
)
PROCESSOR = dict(
    image_processor_type='ViTImageProcessor',
    image_mean=[0.5, 0.4, 0.3],
    image_std=[0.2, 0.3, 0.4],
)


@pytest.fixture(scope='module')
def transformers():
    package = h.outside('transformers')
    package.logging.set_verbosity_error()
    return package


@pytest.fixture
def folder(transformers, tmp_path):
    """Makes a folder of a small network, as the package writes it."""

    def make(kind, processor=PROCESSOR):
        config = getattr(transformers, f'{kind}Config')(**NETS[kind])
        torch.manual_seed(3)
        transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
        if processor is not None:
            (tmp_path / 'preprocessor_config.json').write_text(json.dumps(processor))
        return tmp_path

    return make


def teacher(folder, checkpoint=None, **options):
    config = dict(type='mmkd.HFBackbone', model=str(folder), **options)
    guide = Teacher(config if options else f'hf::{folder}', checkpoint)
    guide.probe([BACKBONE])
    return guide


def patches(tokens, size):
    return tokens[:, -size[0] * size[1] :].transpose(1, 2).unflatten(2, size)


OWN = [kind for kind in NETS if kind not in ('Swin', 'ConvNext')]
"""Whose last map is the network's output; the package gives each stage of the others a norm of its own."""


@pytest.mark.parametrize('kind', OWN)
def test_the_last_map_is_the_packages_own_output(transformers, folder, kind):
    guide = teacher(folder(kind))
    own = transformers.AutoModel.from_pretrained(guide.model.name).eval()
    options = dict(interpolate_pos_encoding=True) if kind in ('CLIPVision', 'ViT') else {}
    images = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        states = own(images, **options).last_hidden_state
    side = 112 // NETS[kind].get('patch_size', 32)
    expected = states if states.dim() == 4 else patches(states, (side, side))
    assert torch.equal(guide.observe(images)[BACKBONE][-1], expected)


@pytest.mark.parametrize('kind', ['Swin', 'ConvNext', 'Dinov2', 'ResNet'])
def test_the_maps_are_those_of_the_packages_backbone(transformers, folder, kind):
    guide = teacher(folder(kind))
    names = guide.model.backbone.net.config.stage_names
    own = transformers.AutoBackbone.from_pretrained(guide.model.name, out_features=names).eval()
    images = torch.randn(1, 3, 112, 168)
    with torch.no_grad():
        deepest = {m.shape: m for m in own(images).feature_maps}
    got = guide.observe(images)[BACKBONE]
    assert len(got) == len(deepest)
    assert all(torch.equal(m, deepest[m.shape]) for m in got)


def test_levels_are_chosen_by_index(folder):
    guide = teacher(folder('ViT'), out_indices=[0, 1, 2])
    assert [m.shape for m in guide.observe(torch.randn(1, 3, 64, 96))[BACKBONE]] == [
        (1, 16, 4, 6)
    ] * 3


@pytest.mark.parametrize(
    ('said', 'mean', 'std'),
    [
        (PROCESSOR, [127.5, 102.0, 76.5], [51.0, 76.5, 102.0]),
        (dict(PROCESSOR, rescale_factor=1 / 127.5), [63.75, 51.0, 38.25], [25.5, 38.25, 51.0]),
        (dict(PROCESSOR, do_normalize=False), [0.0] * 3, [255.0] * 3),
        (dict(PROCESSOR, do_rescale=False), [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]),
    ],
    ids=['usual', 'factor', 'not normalised', 'not rescaled'],
)
def test_the_normalisation_is_the_processors(folder, said, mean, std):
    pixels = teacher(folder('ViT', said)).model.data_preprocessor
    torch.testing.assert_close(pixels.mean.flatten(), torch.tensor(mean))
    torch.testing.assert_close(pixels.std.flatten(), torch.tensor(std))


def test_a_folder_without_a_processor_needs_mean_and_deviation(folder):
    place = folder('ViT', None)
    message = h.message_of(teacher, place)
    assert message.startswith(f'teacher hf::{place}: cannot be read (OSError')
    assert 'needed: mean=[...] and std=[...] besides' in message
    given = teacher(place, mean=[1.0, 2.0, 3.0], std=[4.0] * 3).model.data_preprocessor
    assert given.mean.flatten().tolist() == [1.0, 2.0, 3.0]


def test_a_file_of_weights_goes_with_a_folder(transformers, folder, tmp_path):
    place = folder('ViT')
    other = transformers.ViTForImageClassification(transformers.ViTConfig(**NETS['ViT']))
    torch.save(other.state_dict(), tmp_path / 'other.pth')
    guide = teacher(place, tmp_path / 'other.pth', out_indices=[2])
    own = guide.model.backbone.net.state_dict()
    state = {name.removeprefix('vit.'): value for name, value in other.state_dict().items()}
    assert all(torch.equal(own[name], state[name]) for name in own if 'pooler' not in name)


def test_wrong_names_and_weights_are_named(transformers, folder, tmp_path, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    assert 'teacher hf::no/where: cannot be read' in h.message_of(Teacher, 'hf::no/where')
    place = folder('ViT')
    (place / 'model.safetensors').unlink()
    assert 'cannot be read' in h.message_of(teacher, place)
    shallow = transformers.ViTConfig(**{**NETS['ViT'], 'num_hidden_layers': 1})
    transformers.ViTModel(shallow).save_pretrained(tmp_path / 'd')
    (tmp_path / 'd/model.safetensors').rename(place / 'model.safetensors')
    assert 'missing (encoder.layer.1' in h.message_of(teacher, place)


def test_no_folder_runs_code(folder, tmp_path):
    place = folder('ViT')
    (place / 'model.safetensors').unlink()
    (place / 'pytorch_model.bin').write_bytes(PAYLOADS['archive'](tmp_path / 'ran'))
    h.message_of(teacher, place)
    config = json.loads((place / 'config.json').read_text())
    config['auto_map'] = dict(AutoConfig='evil.Config', AutoModel='evil.Model')
    config['model_type'] = 'evil'
    (place / 'config.json').write_text(json.dumps(config))
    (place / 'evil.py').write_text(f'open({str(tmp_path / "ran")!r}, "w")')
    h.message_of(teacher, place)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('kind', ['ViT', 'ConvNext'])
def test_a_student_learns_from_it(folder, kind):
    guide = dict(config=f'hf::{folder(kind)}')
    model = h.distiller(h.rtmdet(), guide, pkd=dict(type='mmkd.PKD')).train()
    losses = h.losses_of(model, 'rtmdet')
    model.parse_losses(losses)[0].backward()
    assert losses['pkd/loss'] > 0
    assert all(p.grad.abs().sum() > 0 for p in model.distillation.methods['pkd'].parameters())
