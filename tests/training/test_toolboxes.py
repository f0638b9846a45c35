"""What OpenMMLab does with all parameters, buffers or modules of a model, where methods add some of theirs.

docs/hooks.md lists it; averages are in test_ema.py.
"""

import re
from pathlib import Path
from types import SimpleNamespace

import helpers as h
import mmcv
import mmdet
import mmengine
import mmpretrain
import mmseg
import pytest
import torch
from mmcv.cnn.rfsearch import RFSearchHook
from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval
from mmengine.model.utils import detect_anomalous_params
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS
from rank_work import fake_ranks

from mmkd.errors import InputError
from mmkd.training.method_optimizers import refuse_several

ROOMS = {
    mmengine: ('hooks', 'optim', 'runner', 'model', '_strategy'),
    mmdet: ('engine',),
    mmpretrain: ('engine',),
    mmseg: ('engine',),
    mmcv: ('cnn/rfsearch',),
}
ENUMERATES = re.compile(
    r'\.(named_)?(parameters|buffers|modules|children)\(|model\.state_dict\(\)|deepcopy\(model'
)
FITNET = dict(type='mmkd.FitNet', tap=dict(at='backbone', levels=[3]))
FRSKD = dict(type='mmkd.FRSKD')


def distilled(family='retinanet', **methods):
    teacher = None
    if 'fitnet' in methods:
        teacher = h.FAMILIES[family](width=16)
    return h.distiller(h.FAMILIES[family](), teacher, **methods)


def own(model):
    return {n for n, _ in model.named_parameters() if n.startswith('distillation.')}


def test_all_code_of_the_toolboxes_that_enumerates_a_model_is_in_the_table():
    found = set()
    for package, rooms in ROOMS.items():
        root = Path(package.__file__).parent
        files = [file for room in rooms for file in (root / room).rglob('*.py')]
        enumerating = [file for file in files if ENUMERATES.search(file.read_text())]
        found |= {str(file.relative_to(root.parent)) for file in enumerating}
    table = (h.ROOT / 'docs/hooks.md').read_text()
    listed = set(re.findall(r'`(\w+/[\w/]+\.py)`', table))
    assert len(found) > 20
    assert found - listed == set()
    assert {path for path in listed - found if path.split('/')[0] != 'tests'} == set()


PARAMWISE = {
    'DefaultOptimWrapperConstructor': dict(custom_keys={'backbone': dict(lr_mult=0.1)}),
    'mmseg.ForceDefaultOptimWrapperConstructor': dict(custom_keys={'backbone': dict(lr_mult=0.1)}),
    'mmdet.LearningRateDecayOptimizerConstructor': dict(num_layers=6, decay_rate=0.5),
    'mmseg.LearningRateDecayOptimizerConstructor': dict(num_layers=6, decay_rate=0.5),
    'mmpretrain.LearningRateDecayOptimWrapperConstructor': dict(layer_decay_rate=0.5),
}


def convnext():
    student = h.retinanet()
    arch = dict(depths=[1, 1, 1, 1], channels=[8, 16, 32, 64])
    student.backbone = dict(
        type='mmpretrain.ConvNeXt', arch=arch, out_indices=[0, 1, 2, 3], gap_before_final_norm=False
    )
    return h.distiller(student, h.retinanet(width=16), fitnet=FITNET)


def vision_transformer():
    student, teacher = h.transformer('vit'), h.transformer('vit')
    teacher.backbone.arch.update(embed_dims=48)
    teacher.head.in_channels = 48
    return h.distiller(student, teacher, fitnet=dict(FITNET, tap='backbone.layers.3'))


@pytest.mark.parametrize('constructor', PARAMWISE)
def test_optimizer_constructors_give_methods_the_full_rate(constructor):
    """Those that let rates fall with depth know the depths of the student's layers alone."""
    model = vision_transformer() if constructor.startswith('mmpretrain') else convnext()
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor=constructor,
            optimizer=dict(type='SGD', lr=1.0, weight_decay=0.1),
            paramwise_cfg=PARAMWISE[constructor],
        ),
    )
    names = {id(p): n for n, p in model.named_parameters()}
    # mmengine adds one group for all that is trained, which is asked for the norm of gradients alone
    groups = [g for g in wrapper.param_groups if 'base_param_settings' not in g or g['params']]
    rates = {names[id(p)]: g['lr'] for g in groups for p in g['params'] if id(p) in names}
    assert set(rates) == set(names.values())
    assert own(model)
    assert {rates[name] for name in own(model)} == {1.0}
    assert min(rates.values()) < 0.2


@pytest.mark.parametrize('hook', ['mmdet.NumClassCheckHook', 'mmpretrain.ClassNumCheckHook'])
def test_checks_of_class_counts_accept_second_heads(hook):
    family = 'faster_rcnn' if hook.startswith('mmdet') else 'classifier'
    rotations = {} if family == 'faster_rcnn' else dict(rotations=True)
    model = distilled(family, frskd=dict(FRSKD, **rotations))
    names = tuple('abcd')
    data = SimpleNamespace(metainfo=dict(classes=names), CLASSES=names)
    loader = SimpleNamespace(dataset=data)
    runner = SimpleNamespace(model=model, train_dataloader=loader)
    built = HOOKS.build(dict(type=hook))
    begin = built.before_train_epoch if hook.startswith('mmdet') else built.before_train
    begin(runner)
    data.metainfo['classes'] = data.CLASSES = tuple('abc')
    with pytest.raises(AssertionError, match='num_classes'):
        begin(runner)


def test_buffers_are_averaged_over_ranks_those_of_methods_too():
    with fake_ranks():
        model = distilled(frskd=FRSKD)
        before = {name: value.clone() for name, value in model.named_buffers()}
        hook = HOOKS.build(dict(type='SyncBuffersHook'))
        hook.after_train_epoch(SimpleNamespace(model=model))
    variances = {n: v for n, v in model.named_buffers() if n.endswith('running_var')}
    assert any(name.startswith('distillation.') for name in variances)
    # the other rank does not exist, so that a mean over two is half of what there was
    assert all(torch.equal(2 * value, before[name]) for name, value in variances.items())


def test_every_parameter_is_in_the_losses_also_of_a_term_that_begins_late(monkeypatch):
    """What DDP asks for when it is to detect parameters without a gradient."""
    late = dict(type='Ramp', value=1.0, begin=0.5, until=1.0)
    model = distilled(fitnet=dict(FITNET, weight=late), frskd=FRSKD)
    absent = []
    monkeypatch.setattr(
        'mmengine.model.utils.print_log', lambda text, **options: absent.append(text)
    )
    loss, _ = model.parse_losses(h.losses_of(model, 'retinanet'))
    detect_anomalous_params(loss, model)
    assert absent == []
    detect_anomalous_params(sum(p.sum() for p in model.bbox_head.parameters()), model)
    assert any(text.startswith('distillation.fitnet') for text in absent)


def test_convolutions_that_are_fused_with_frozen_norms_are_tapped_all_the_same():
    model = h.freeze_statistics(distilled(fitnet=FITNET))
    plain = h.losses_of(model, 'retinanet')
    turn_on_efficient_conv_bn_eval(model, 'backbone')
    fused = h.losses_of(model, 'retinanet')
    assert fused.keys() == plain.keys()
    torch.testing.assert_close(fused['fitnet/loss'], plain['fitnet/loss'])


def test_a_search_for_receptive_fields_can_leave_methods_out():
    model = distilled(frskd=FRSKD)
    search = dict(step=0, num_branches=2, skip_layer=['distillation'], init_alphas=0.01, exp_rate=0.5,
                  mmin=1, mmax=24)  # fmt: skip
    hook = RFSearchHook(config=dict(search=search), verbose=False)
    hook.init_model(model)
    searched = {n for n, m in model.named_modules() if 'RFSearchOp' in type(m).__name__}
    assert any(name.startswith('backbone.') for name in searched)
    assert not any(name.startswith('distillation.') for name in searched)


class ZeroRedundancyOptimizer(torch.optim.SGD):
    """By its name, which is all that is looked at."""


def test_an_own_optimizer_beside_one_that_is_spread_over_ranks_is_refused():
    optimizer = ZeroRedundancyOptimizer([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    words = 'methods.dpk: an own optimizer beside a ZeroRedundancyOptimizer, .* methods.dpk.optimizer=None'
    with pytest.raises(InputError, match=words):
        refuse_several('dpk', SimpleNamespace(optimizer=optimizer))
