"""timm's networks as teachers answer what timm itself answers."""

import helpers as h
import pytest
import torch
from hostile import PAYLOADS

import mmkd
from mmkd import Tap, Teacher

BACKBONE = Tap('backbone')


@pytest.fixture(scope='module')
def timm():
    return h.outside('timm')


def teacher(name, checkpoint='untrained', **options):
    config = dict(type='mmkd.TimmBackbone', model=name, **options) if options else f'timm::{name}'
    guide = Teacher(config, checkpoint)
    guide.probe([BACKBONE])
    return guide


def answers(guide, images):
    return guide.observe(images)[BACKBONE]


@pytest.mark.parametrize(
    ('name', 'strides'),
    [
        ('test_vit', [16]),
        ('test_vit3', [16]),
        ('test_resnet', [2, 4, 8, 16, 32]),
        ('test_convnext', [4, 8, 16, 32]),
        ('test_efficientnet', [2, 4, 8, 16, 32]),
        ('test_maxvit', [2, 4, 8, 16, 32]),
    ],
)
def test_the_maps_are_those_of_the_package(timm, name, strides):
    guide = teacher(name)
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        own = guide.model.backbone.net.forward_intermediates(
            images, norm=True, intermediates_only=True
        )
    got = answers(guide, images)
    assert [160 // m.shape[-1] for m in got] == strides
    deepest = {m.shape: m for m in own}
    assert all(torch.equal(m, deepest[m.shape]) for m in got)


def test_the_last_level_of_a_vit_is_its_own_output(timm):
    guide, images = teacher('test_vit'), torch.randn(1, 3, 96, 160)
    net = guide.model.backbone.net
    with torch.no_grad():
        tokens = net.forward_features(images)[:, net.num_prefix_tokens :]
    expected = tokens.transpose(1, 2).unflatten(2, (6, 10))
    assert torch.equal(answers(guide, images)[0], expected)


def test_an_image_of_another_size_is_resized_to_whole_patches(timm):
    guide, images = teacher('test_vit'), torch.randn(1, 3, 90, 150)
    resized = torch.nn.functional.interpolate(
        images, (96, 144), mode='bilinear', align_corners=False, antialias=True
    )
    assert torch.equal(answers(guide, images)[0], answers(guide, resized)[0])


def test_blocks_are_chosen_by_index_and_by_name(timm):
    guide = teacher('test_vit', out_indices=[0, 2], norm=False)
    images, block = torch.randn(1, 3, 64, 64), Tap('backbone.net.blocks.2')
    guide.probe([BACKBONE, block])
    seen = guide.observe(images)
    assert torch.equal(
        seen[BACKBONE][1], seen[block][0][:, -16:].transpose(1, 2).unflatten(2, (4, 4))
    )


@pytest.mark.parametrize('student', ['retinanet', 'rtmdet', 'classifier', 'segmentor'])
def test_it_sees_the_batch_in_its_own_normalisation(timm, student):
    """RTMDet's images stay blue first, RetinaNet's and the others' become red first."""
    model = h.build(h.FAMILIES[student]())
    guide = teacher('test_vit')
    guide.learn_input(model)
    raw = h.raw_batch(student, sizes=((64, 64), (64, 64)))
    seen = model.data_preprocessor(raw, True)
    data = timm.data.resolve_model_data_config(guide.model.backbone.net)
    pixels = torch.stack(list(raw['inputs'])).flip(1) / 255.0  # files are read blue first
    mean, std = (torch.tensor(data[name])[:, None, None] for name in ('mean', 'std'))
    got = guide.repaint(seen['inputs'], seen['data_samples'])
    torch.testing.assert_close(got, (pixels - mean) / std, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('kind', ['pth', 'safetensors', 'other head', 'other size'])
def test_a_file_of_the_package_is_its_checkpoint(timm, tmp_path, kind):
    classes, size = (7, 160) if kind != 'other size' else (1000, 96)
    net = timm.create_model('test_vit', num_classes=classes, img_size=size)
    file = tmp_path / ('vit.safetensors' if kind == 'safetensors' else 'vit.pth')
    state = net.state_dict()
    if kind == 'safetensors':
        h.outside('safetensors.torch').save_file(state, file)
    else:
        torch.save(dict(model=state) if kind == 'other head' else state, file)
    guide, images = teacher('test_vit', file), torch.randn(1, 3, 160, 160)
    own = guide.model.backbone.net.state_dict()
    same = [name for name in own if name != 'pos_embed' or size == 160]
    assert all(torch.equal(own[name], state[name]) for name in same)
    assert answers(guide, images)[0].shape[-1] == 10


def test_wrong_files_and_names_are_named(timm, tmp_path):
    torch.save(timm.create_model('test_resnet').state_dict(), tmp_path / 'other.pth')
    message = h.message_of(teacher, 'test_vit', tmp_path / 'other.pth')
    assert 'other.pth: 0 keys loaded' in message
    assert 'timm::test_vt: timm' in h.message_of(teacher, 'test_vt')
    assert "nearest: 'test_vit" in h.message_of(teacher, 'test_vt')


def test_weights_that_cannot_be_fetched_are_one_sentence(timm, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    message = h.message_of(teacher, 'test_vit2', None)
    assert 'teacher timm::test_vit2: its weights cannot be fetched' in message
    assert '--teacher-checkpoint FILE' in message


def test_no_file_runs_code(timm, tmp_path):
    (tmp_path / 'hostile.pth').write_bytes(PAYLOADS['archive'](tmp_path / 'ran'))
    assert 'wants to run' in h.message_of(teacher, 'test_vit', tmp_path / 'hostile.pth')
    assert not (tmp_path / 'ran').exists()


FEATURES = ('pkd', 'cwd', 'at', 'fitnet', 'fgd', 'dpk')


@pytest.mark.parametrize(
    ('family', 'method'),
    [
        *(('rtmdet', method) for method in FEATURES),
        *((f, m) for f in ('classifier', 'segmentor') for m in FEATURES if m != 'fgd'),
    ],
)
@pytest.mark.parametrize('name', ['test_vit', 'test_convnext'])
def test_feature_methods_learn_from_it(timm, method, family, name):
    options = dict(size='light', optimizer=None) if method == 'dpk' else {}
    guide = dict(config=f'timm::{name}', checkpoint='untrained')
    kind = type(mmkd.core.method.build_method(method, dict(type=f'mmkd.{method}'))).__name__
    model = h.distiller(
        h.FAMILIES[family](), guide, **{method: dict(type=f'mmkd.{kind}', **options)}
    ).train()
    losses = h.losses_of(model, family)
    terms = [value for term, value in losses.items() if term.startswith(f'{method}/loss')]
    assert terms
    assert sum(terms) > 0
    model.parse_losses(losses)[0].backward()
    grads = [p.grad for n, p in model.named_parameters() if n.startswith('backbone')]
    assert any(g is not None and g.abs().sum() > 0 for g in grads)


def test_logit_methods_say_that_it_has_no_logits(timm):
    guide = dict(config='timm::test_vit', checkpoint='untrained')
    message = h.message_of(lambda: h.distiller(h.classifier(), guide, kd=dict(type='mmkd.KD')))
    assert 'TimmBackbone has no head with class logits' in message
    assert 'a feature method (pkd, cwd, fitnet) fits it' in message
