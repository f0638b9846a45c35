import helpers as h
import pytest
import torch
from torch import nn

from mmkd import InputError, Tap, Teacher

NECK = Tap('neck')
IMAGES = torch.randn(2, 3, 64, 64)


def teacher(config=None, taps=(NECK,), **options):
    guide = Teacher(config or h.retinanet(), options.pop('checkpoint', 'untrained'), **options)
    guide.probe(taps)
    return guide


def levels(guide, taps=(NECK,)):
    answers = guide.observe(IMAGES)
    return [level for tap in taps for level in answers[tap]]


def saved(path, config, **extra):
    torch.save(dict(state_dict=h.build(config).state_dict(), **extra), path)
    return path


def test_it_is_wholly_in_eval_mode_and_stays_so():
    config = h.faster_rcnn()
    config.backbone = dict(
        type='SwinTransformer', embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1),
        drop_path_rate=0.9, drop_rate=0.5, attn_drop_rate=0.5, init_cfg=None,
    )  # fmt: skip
    guide = teacher(config)
    guide.train()
    nn.ModuleList([guide]).train()
    assert not any(module.training for module in guide.modules())
    assert all(torch.equal(a, b) for a, b in zip(levels(guide), levels(guide)))


def test_it_runs_no_deeper_than_its_deepest_tap():
    guide = teacher()
    ran = []
    for name, module in guide.model.named_modules():
        module.register_forward_pre_hook(lambda m, args, name=name: ran.append(name))
    levels(guide)
    assert not [name for name in ran if name.startswith('bbox_head')]
    ran.clear()
    guide.probe([Tap('backbone.layer2')])
    ran.clear()
    guide.observe(IMAGES)
    assert not [name for name in ran if name.startswith(('backbone.layer3', 'neck'))]
    assert 'backbone.layer2.1' in ran


def test_it_gives_no_gradient_and_has_none():
    guide = teacher()
    assert not any(level.requires_grad for level in levels(guide))
    assert not any(p.requires_grad for p in guide.parameters())


@pytest.mark.parametrize(
    ('options', 'tolerance'),
    [
        (dict(channels_last=True), 1e-4),
        (dict(fuse=True), 1e-4),
        (dict(fuse=True, channels_last=True), 1e-4),
        (dict(precision='bf16'), 0.1),
    ],
)
def test_cheaper_forms_keep_the_answers(tmp_path, options, tolerance):
    file = saved(tmp_path / 't.pth', h.retinanet())
    plain, cheap = teacher(checkpoint=file), teacher(checkpoint=file, **options)
    for got, want in zip(levels(cheap), levels(plain)):
        assert (got.float() - want).norm() <= tolerance * want.norm()


def test_fusion_leaves_no_batch_norm():
    assert not any(
        isinstance(m, nn.BatchNorm2d) for m in teacher(fuse=True).model.backbone.modules()
    )


@pytest.mark.slow
def test_a_compiled_teacher_keeps_the_answers(tmp_path):
    file = saved(tmp_path / 't.pth', h.retinanet())
    plain, fast = teacher(checkpoint=file), teacher(checkpoint=file, compile=True)
    for got, want in zip(levels(fast), levels(plain)):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_is_loaded_bit_for_bit_with_its_classes(tmp_path):
    meta = dict(dataset_meta=dict(classes=('a', 'b')))
    file = saved(tmp_path / 't.pth', h.retinanet(), meta=meta)
    guide = teacher(checkpoint=file)
    state = torch.load(file, weights_only=True)['state_dict']
    assert all(torch.equal(v, state[k]) for k, v in guide.model.state_dict().items())
    assert guide.classes == ('a', 'b')


def test_a_checkpoint_of_a_distillation_serves_too(tmp_path):
    model = h.distiller(h.retinanet(), h.retinanet(width=16), pkd=dict(type='mmkd.PKD'))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'd.pth')
    teacher(checkpoint=tmp_path / 'd.pth')


def test_a_checkpoint_of_another_architecture_stops_with_counts(tmp_path):
    file = saved(tmp_path / 't.pth', h.faster_rcnn())
    with pytest.raises(InputError, match=r't\.pth: \d+ keys loaded; \d+ missing.*\d+ unexpected'):
        teacher(checkpoint=file)
    file = saved(tmp_path / 'wide.pth', h.retinanet(width=16))
    with pytest.raises(InputError, match=r'wide\.pth.*\d+ misshaped.*another architecture'):
        teacher(checkpoint=file)


def test_a_few_wrong_keys_stop_unless_allowed(tmp_path):
    state = h.build(h.retinanet()).state_dict()
    del state['bbox_head.retina_cls.bias']
    torch.save(state, tmp_path / 't.pth')
    with pytest.raises(
        InputError, match=r'1 missing \(bbox_head\.retina_cls\.bias\).*strict=False'
    ):
        teacher(checkpoint=tmp_path / 't.pth')
    teacher(checkpoint=tmp_path / 't.pth', strict=False)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(checkpoint=None), ['checkpoint is missing', '--teacher-checkpoint']),
        (dict(checkpoint='nowhere.pth'), ['nowhere.pth', 'no such file']),
        (dict(precision='fp8'), ["precision='fp8'", "'fp16'"]),
        (dict(inputs='mine'), ["inputs='mine'", "'own'"]),
        (dict(taps=[Tap('nek')]), ["'nek'", "'neck'", 'teacher']),
        (dict(taps=[Tap('neck', levels=(9,))]), ['9 is out of range', '5 levels']),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(InputError) as error:
        teacher(**options)
    assert all(word in str(error.value) for word in words)


def test_a_missing_config_is_named():
    with pytest.raises(InputError, match=r'config nowhere\.py: no such file'):
        Teacher('nowhere.py', 'untrained')


def test_the_summary_counts_parameters():
    guide = teacher()
    count = sum(p.numel() for p in guide.model.parameters())
    assert f'{count / 1e6:.2f} M parameters' in guide.summary()


@pytest.mark.parametrize('family', h.FAMILIES)
def test_the_checkpoint_that_a_family_writes_is_clean(family, tmp_path):
    """tests/test_families.py sees to those that rebuild a part of their state, as Swin V2 does."""
    config = h.FAMILIES[family]()
    Teacher(config, saved(tmp_path / 't.pth', config))
