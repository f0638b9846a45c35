"""What mmengine and the toolboxes do with all of a model's parameters and buffers while it is distilled."""

import copy
import math

import helpers as h
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd.commands.export import export_student
from mmkd.core.distiller import plain_view

METHODS = {
    'fitnet': dict(type='mmkd.FitNet', tap='backbone.layer3'),
    'dpk': dict(
        type='mmkd.DPK', size='light', tap=['backbone.layer2', 'backbone.layer3'],
        optimizer=dict(type='AdamW', lr=0.001),
    ),
}  # fmt: skip
SLOW = pytest.mark.slow
AVERAGES = {
    'ExponentialMovingAverage': dict(momentum=0.3),
    'StochasticWeightAverage': dict(),
    'mmdet.ExpMomentumEMA': dict(momentum=0.2, gamma=5),
}


class Recorder(Hook):
    """The student's state after each iteration, and what is validated."""

    def __init__(self):
        self.trained, self.validated = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.trained.append(students(runner.model))

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == 0:
            self.validated.append(students(runner.model))


def students(model):
    state = model.state_dict()
    return {k: v.clone() for k, v in state.items() if not k.startswith('distillation.')}


def config(tmp_path, shapes, method='fitnet', family='classifier', hook='EMAHook', **average):
    cfg = h.runner_config(family, tmp_path, shapes)
    teacher = h.retinanet() if family == 'rtmdet' else h.widened(cfg.model)
    if family == 'classifier':
        cfg.default_hooks.checkpoint.update(save_best='accuracy/top1', rule='greater')
    cfg.model = dict(
        type='mmkd.Distiller', student=cfg.model, methods={method: METHODS[method]},
        teacher=dict(config=teacher, checkpoint='untrained'),
    )  # fmt: skip
    cfg.custom_hooks = [dict(type=hook, priority=49, **average), dict(type='mmkd.DistillationHook')]
    return cfg


def train(cfg):
    torch.manual_seed(0)
    runner, recorder = Runner.from_cfg(cfg), Recorder()
    runner.register_hook(recorder)
    runner.train()
    return runner, recorder


def averaged(states, kind, buffers, names, momentum=0.0, gamma=0):
    """The average of a plain student by its definition, parameter by parameter."""
    mean = {k: v.clone() for k, v in states[0].items()}
    for step, state in enumerate(states[1:], start=1):
        for name, value in state.items():
            share = momentum
            if kind == 'StochasticWeightAverage':
                share = 1 / (step + 1)
            elif kind == 'mmdet.ExpMomentumEMA':
                share = (1 - momentum) * math.exp(-(1 + step) / gamma) + momentum
            if name in names or (buffers and value.is_floating_point()):
                mean[name] += share * (value - mean[name])
            elif not buffers:
                mean[name] = value.clone()
    return mean


def close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ('method', 'kind', 'buffers'),
    [
        ('fitnet', 'ExponentialMovingAverage', True),
        pytest.param('fitnet', 'ExponentialMovingAverage', False, marks=SLOW),
        pytest.param('fitnet', 'StochasticWeightAverage', True, marks=SLOW),
        pytest.param('dpk', 'mmdet.ExpMomentumEMA', False, marks=SLOW),
        ('dpk', 'mmdet.ExpMomentumEMA', True),
    ],
)
def test_what_is_validated_and_exported_is_the_students_average(
    method, buffers, kind, tmp_path, shapes
):
    options = AVERAGES[kind]
    cfg = config(tmp_path, shapes, method, ema_type=kind, update_buffers=buffers, **options)
    runner, recorder = train(cfg)
    assert any(p.requires_grad for p in runner.model.distillation.parameters())
    names = {name for name, _ in plain_view(runner.model).named_parameters()}
    epoch = len(recorder.trained) // 2
    assert len(recorder.validated) == 2
    wanted = []
    for number, validated in enumerate(recorder.validated, start=1):
        wanted.append(averaged(recorder.trained[: number * epoch], kind, buffers, names, **options))
        if not buffers:
            wanted[-1] |= {k: v for k, v in validated.items() if k not in names}
        close(validated, wanted[-1])
    assert all(torch.equal(v, recorder.trained[-1][k]) for k, v in students(runner.model).items())
    for file, number in {'epoch_1.pth': 1, 'epoch_2.pth': 2, 'best': None}.items():
        path = next(tmp_path.glob(f'{file}*'))
        number = number or int(path.stem.rpartition('_')[2])
        _, exported = export_student(cfg, path, tmp_path / 'out')
        state = torch.load(exported, weights_only=True)['state_dict']
        close(dict(state), recorder.validated[number - 1])


@pytest.mark.parametrize('buffers', [pytest.param(False, marks=SLOW), True])
def test_the_evaluation_is_that_of_a_plain_student_with_the_average(buffers, tmp_path, shapes):
    cfg = config(tmp_path, shapes, ema_type='mmdet.ExpMomentumEMA', update_buffers=buffers)
    runner, recorder = train(cfg)
    test = h.runner_config('classifier', tmp_path / 'plain', shapes)
    test.load_from = str(tmp_path / 'epoch_2.pth')
    alone = Runner.from_cfg(test)
    metrics = alone.test()
    assert metrics['accuracy/top1'] == runner.message_hub.get_scalar('val/accuracy/top1').current()
    state = alone.model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in recorder.validated[-1].items())


@pytest.mark.parametrize(
    ('method', 'buffers'),
    [
        ('dpk', True),
        pytest.param('dpk', False, marks=SLOW),
        pytest.param('fitnet', True, marks=SLOW),
        pytest.param('fitnet', False, marks=SLOW),
    ],
)
def test_a_resumed_average_goes_on(method, buffers, tmp_path, shapes):
    average = dict(ema_type='mmdet.ExpMomentumEMA', update_buffers=buffers, momentum=0.2, gamma=5)
    cfg = config(tmp_path / 'full', shapes, method, **average)
    cfg.custom_hooks.append(dict(type='mmkd.ResumeHook'))
    cfg.randomness = dict(seed=1)
    _, full = train(cfg)
    cut = copy.deepcopy(cfg)
    cut.resume, cut.work_dir = True, str(tmp_path / 'cut')
    cut.load_from = str(tmp_path / 'full/epoch_1.pth')
    _, resumed = train(cut)
    close(resumed.validated[-1], full.validated[-1])
    assert len(resumed.trained) == len(full.trained) // 2


def test_rtmdet_with_its_own_average(tmp_path, shapes):
    """As its configs have it: ExpMomentumEMA over parameters and buffers."""
    cfg = config(
        tmp_path, shapes, family='rtmdet', ema_type='ExpMomentumEMA', momentum=0.0002,
        update_buffers=True,
    )  # fmt: skip
    cfg.model.methods.fitnet.update(tap='neck', teacher_tap=dict(at='neck', levels=[0, 1, 2]))
    cfg.train_cfg.max_epochs = 1
    runner, recorder = train(cfg)
    assert list(runner.model.distillation.parameters())
    names = {name for name, _ in plain_view(runner.model).named_parameters()}
    options = dict(momentum=0.0002, gamma=2000)
    wanted = averaged(recorder.trained, 'mmdet.ExpMomentumEMA', True, names, **options)
    close(recorder.validated[0], wanted)


@pytest.mark.parametrize('buffers', [pytest.param(False, marks=SLOW), True])
def test_the_average_of_mmpretrain_is_loaded_and_evaluated(buffers, tmp_path, shapes):
    """Its hook starts from a checkpoint's average, and evaluates the model beside its average."""
    options = dict(hook='mmpretrain.EMAHook', momentum=0.3, update_buffers=buffers)
    cfg = config(tmp_path / 'first', shapes, evaluate_on_origin=True, **options)
    runner, recorder = train(cfg)
    assert 'val/accuracy/top1_origin' in runner.message_hub.log_scalars
    second = copy.deepcopy(cfg)
    second.load_from, second.work_dir = str(tmp_path / 'first/epoch_2.pth'), str(tmp_path / 'two')
    second.optim_wrapper.optimizer.lr = 0.0
    _, again = train(second)
    names = {name for name, _ in plain_view(runner.model).named_parameters()}
    start = {k: v for k, v in again.trained[0].items() if k in names}
    close(start, {k: v for k, v in recorder.validated[-2].items() if k in names})


def test_precise_bn_is_the_plain_students(tmp_path, shapes):
    """It runs the model in another mode than training, where a Distiller is its student."""
    cfg = config(tmp_path, shapes, 'dpk', hook='mmpretrain.PreciseBNHook', num_samples=8)
    cfg.train_cfg.max_epochs = 1
    cfg.randomness = dict(seed=1)
    cfg.optim_wrapper.optimizer.lr = 0.0
    cfg.model.methods.dpk.optimizer.lr = 0.0
    cfg.model.methods.frskd = dict(type='mmkd.FRSKD')  # has BatchNorms of its own
    plain = copy.deepcopy(cfg)
    plain.model, plain.work_dir = cfg.model.student, str(tmp_path / 'plain')
    ours, theirs = (students(train(one)[0].model) for one in (cfg, plain))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_layer_decay_gives_a_methods_parameters_the_full_rate(tmp_path, shapes):
    """The constructor of mmpretrain knows depths of the student's layers alone."""
    from mmengine.optim import build_optim_wrapper

    student = h.transformer('vit')
    teacher = h.transformer('vit')
    teacher.backbone.arch.update(embed_dims=48)
    teacher.head.in_channels = 48
    fitnet = dict(type='mmkd.FitNet', tap='backbone.layers.3')
    model = h.distiller(student, teacher, fitnet=fitnet)
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor',
            optimizer=dict(type='SGD', lr=1.0, weight_decay=0.1),
            paramwise_cfg=dict(layer_decay_rate=0.5),
        ),
    )
    names = {id(p): n for n, p in model.named_parameters()}
    groups = [g for g in wrapper.param_groups if 'param_name' in g]  # mmengine adds one of its own
    rates = {names[id(p)]: g['lr'] for g in groups for p in g['params']}
    assert set(rates) == set(names.values())
    own = {rate for name, rate in rates.items() if name.startswith('distillation.')}
    assert own == {1.0}
