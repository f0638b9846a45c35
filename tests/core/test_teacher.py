from types import SimpleNamespace

import helpers as h
import pytest
import torch
from mmengine.logging import MessageHub
from torch import nn

import mmkd.core.teacher as teacher_module
from mmkd import InputError, Tap, Teacher
from mmkd.core import forms
from mmkd.core.forms import EXACT, Form, OneShape
from mmkd.core.unread import Zeros

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
    guide = teacher(fuse=True)
    levels(guide)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in guide.model.backbone.modules())


@pytest.mark.slow
def test_a_compiled_teacher_keeps_the_answers_and_compiles_for_one_size_only(tmp_path):
    file = saved(tmp_path / 't.pth', h.retinanet())
    plain, fast = teacher(checkpoint=file), teacher(checkpoint=file, compile=True)
    torch._dynamo.utils.counters.clear()
    levels(fast)
    graphs = torch._dynamo.utils.counters['stats']['unique_graphs']
    assert graphs > 0
    for images in (IMAGES, torch.randn(2, 3, 96, 64), torch.randn(1, 3, 64, 64)):
        for got, want in zip(fast.observe(images)[NECK], plain.observe(images)[NECK]):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == graphs
    assert isinstance(fast.model.neck.forward, OneShape)
    packed = (
        'mkldnn_conv_weight_pack_matcher_count'  # weights are laid out once, which freezing allows
    )
    assert torch._dynamo.utils.counters['inductor'][packed] > 0


@pytest.mark.slow
def test_compiled_teachers_of_one_architecture_keep_their_own_weights():
    first, second = teacher(compile=True), teacher(compile=True)
    answers = [levels(guide) for guide in (first, second, first)]
    assert all(torch.equal(a, b) for a, b in zip(answers[0], answers[2]))
    assert not any(torch.allclose(a, b) for a, b in zip(*answers[:2]))
    second.model.neck.forward = second.model.neck.forward.plain
    second.model.backbone.forward = second.model.backbone.forward.plain
    for got, want in zip(answers[1], levels(second)):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


# -- a form that is chosen ---------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """The message hub of a training with 900 iterations, too few to compile for 0.3 seconds a pass."""
    hub = MessageHub.get_current_instance()
    monkeypatch.setitem(hub.runtime_info, 'max_iters', 900)
    monkeypatch.setitem(hub.runtime_info, 'iter', 0)
    return hub


@pytest.fixture
def quick_bf16(monkeypatch):
    """The forms that run; the clock says 0.3 seconds of those in single precision, 0.1 of bfloat16."""
    ran, answer = [], Teacher._answer

    def noted(guide, model, form, *args):
        ran.append(form)
        return answer(guide, model, form, *args)

    def clock(function, device):
        function()
        return 0.1 if ran[-1].precision == 'bf16' else 0.3

    monkeypatch.setattr(Teacher, '_answer', noted)
    monkeypatch.setattr(forms, 'timed', clock)
    return ran


def test_by_default_the_first_batch_of_a_long_training_tells_the_form(hub, quick_bf16, monkeypatch):
    said = []
    monkeypatch.setattr(teacher_module, 'print_log', lambda text, *_: said.append(text))
    torch.manual_seed(0)
    plain = levels(teacher(speed='exact'))
    torch.manual_seed(0)
    guide = teacher()
    found = levels(guide)
    assert guide.form == Form(fuse=True, channels_last=True, precision='bf16')
    assert 'fuse, channels_last, bf16: 3.00 times as fast, answers within' in said[-1]
    assert guide.model.backbone.conv1.weight.dtype == torch.bfloat16
    assert all((a.float() - b).norm() <= 0.02 * b.norm() for a, b in zip(found, plain))
    count = len(quick_bf16)
    levels(guide)
    assert quick_bf16[count:] == [guide.form]


def test_a_short_training_or_none_is_exact_and_measures_nothing(hub, quick_bf16):
    hub.update_info('iter', 501)
    torch.manual_seed(0)
    plain = levels(teacher(speed='exact'))
    torch.manual_seed(0)
    guide = teacher()
    assert all(torch.equal(a, b) for a, b in zip(levels(guide), plain))
    assert guide.form == EXACT
    assert {*quick_bf16} == {EXACT}


def test_a_form_whose_answers_differ_is_not_taken(hub, quick_bf16, monkeypatch):
    monkeypatch.setitem(teacher_module.TOLERANCES, 'auto', 1e-4)
    guide = teacher()
    levels(guide)
    assert guide.form == EXACT


def test_a_form_must_gain_a_tenth(hub, quick_bf16, monkeypatch):
    monkeypatch.setattr(forms, 'MARGIN', 3.1)
    guide = teacher()
    levels(guide)
    assert guide.form == EXACT


def test_a_form_that_fails_is_said_and_left(hub, quick_bf16, monkeypatch):
    def broken(model, precision):
        raise RuntimeError('no such kernel')

    said = []
    monkeypatch.setattr(teacher_module, 'print_log', lambda text, *_: said.append(text))
    monkeypatch.setattr(forms, 'store_products', broken)
    guide = teacher()
    levels(guide)
    assert guide.form == EXACT
    assert 'form exact: 1.00 times' in said[-1]
    assert 'bf16: RuntimeError: no such kernel' in said[-1]


def test_fusion_that_changes_answers_is_left_out(hub, quick_bf16):
    """A tap at a convolution sees its norm too, once they are one."""
    guide = teacher(taps=[Tap('backbone.conv1')])
    guide.model.backbone.bn1.running_var.fill_(4.0)
    levels(guide, [Tap('backbone.conv1')])
    assert guide.form == Form(channels_last=True, precision='bf16')


def test_compiling_is_tried_where_it_pays_back_or_at_any_price(hub, quick_bf16, monkeypatch):
    tried = []
    monkeypatch.setattr(forms, 'between', lambda *_: tried.append(1) or [])
    levels(teacher())
    assert not tried  # 900 iterations of 0.1 seconds
    hub.update_info('max_iters', 3100)
    levels(teacher())
    levels(teacher(speed='max'))
    assert len(tried) == 2


def test_nothing_is_tried_once_time_is_up(hub, quick_bf16, monkeypatch):
    """Of 0.3 seconds a pass three are needed; a slow teacher is timed once."""
    monkeypatch.setattr(forms, 'time', SimpleNamespace(perf_counter=lambda: 0.0))
    monkeypatch.setattr(teacher_module, 'SECONDS', 0.85)
    monkeypatch.setattr(forms, 'COMPILING', 1e9)
    guide = teacher()
    levels(guide)
    assert guide.form == EXACT
    assert {*quick_bf16} == {EXACT}
    for seconds, passes in ((1.4, 2), (9.0, 3)):
        monkeypatch.setattr(teacher_module, 'SECONDS', seconds)
        quick_bf16.clear()
        levels(teacher())
        fast = [form for form in quick_bf16 if form != EXACT]
        assert len(fast) == passes + 1  # the last is the answer itself


def test_a_teacher_that_is_told_its_form_measures_nothing(hub, quick_bf16):
    guide = teacher()
    guide.take(Form(fuse=True))
    levels(guide)
    assert {*quick_bf16} == {Form(fuse=True)}


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
        (dict(speed='fast'), ["speed='fast'", "'auto'"]),
        (dict(speed='exact', fuse=True), ["speed='exact'", 'fuse', 'leave one out']),
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


@pytest.mark.parametrize('form', [None, Form(fuse=True), EXACT], ids=str)
def test_a_distillation_of_classes_alone_does_not_run_the_teachers_box_branch(
    hub, quick_bf16, form
):
    """Also where the form is known, from a dumped config or a checkpoint; the exact one is run wholly."""
    model = h.distiller(h.retinanet(), h.retinanet(width=16), kd=dict(type='mmkd.KD'))
    if form is not None:
        model.distillation.teachers['teacher'].keep(form)
    h.losses_of(model, 'retinanet')
    head = model.distillation.teachers['teacher'].model.bbox_head
    assert isinstance(vars(head.retina_reg).get('forward'), Zeros) == (form != EXACT)
    assert 'forward' not in vars(head.retina_cls)


def refuse_other(images, size):
    if images.shape[-1] != size:
        raise AssertionError('no such window')


def of_one_size(size, **options):
    """A classifier that takes images of one size, which its pipeline says."""
    config = h.classifier()
    guide = Teacher(
        dict(model=config, test_dataloader=dict(dataset=dict(pipeline=[dict(crop_size=size)]))),
        'untrained',
        **options,
    )
    guide.model.backbone.conv1.register_forward_pre_hook(
        lambda module, inputs: refuse_other(inputs[0], size)
    )
    return guide


def test_images_of_a_size_that_it_cannot_take_are_named_with_the_size_that_it_can():
    guide = of_one_size(192)
    guide.probe([Tap('backbone.layer4')], [64])
    assert guide.probed.image == 192
    with pytest.raises(InputError) as error:
        guide.observe(IMAGES)
    assert 'the teacher cannot be run on images of 64x64 (AssertionError: no such window)' in str(
        error.value
    )
    assert 'it can on 192x192' in str(error.value)
    assert 'teacher.scale=3' in str(error.value)
    scaled = of_one_size(192, scale=3)
    scaled.probe([Tap('backbone.layer4')], [64])
    assert scaled.observe(IMAGES)[Tap('backbone.layer4')][0].isfinite().all()


def test_what_fails_after_the_first_batch_is_told_as_it_is():
    guide = of_one_size(192)
    guide.probe([Tap('backbone.layer4')])
    guide.observe(torch.randn(1, 3, 192, 192))
    with pytest.raises(AssertionError, match='no such window'):
        guide.observe(IMAGES)


def test_a_lack_of_memory_is_not_a_matter_of_size():
    guide = of_one_size(192)
    guide.probe([Tap('backbone.layer4')])
    message = 'CUDA out of memory. Tried to allocate 20.00 GiB'

    def fail(module, inputs):
        raise torch.OutOfMemoryError(message)

    guide.model.backbone.conv1.register_forward_pre_hook(fail, prepend=True)
    with pytest.raises(torch.OutOfMemoryError, match='out of memory'):
        guide.observe(IMAGES)
