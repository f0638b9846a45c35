"""Methods with an optimiser and a schedule of their own, in real Runners."""

import copy

import helpers as h
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmkd import InputError, Method, Tap
from mmkd.training.method_optimizers import parameter_groups, release, step_unscaled

ADAM = dict(type='AdamW', lr=0.004, betas=(0.9, 0.95), weight_decay=0.1)
COSINE = dict(type='CosineAnnealingLR', T_max=8, eta_min=0.0, by_epoch=False, begin=0, end=8)


def config(tmp_path, shapes, method, **changes):
    cfg = h.runner_config('classifier', tmp_path, shapes, **changes)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=8, val_interval=100)
    cfg.train_dataloader.sampler.type = 'InfiniteSampler'
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=2, by_epoch=False)
    cfg.default_hooks.sampler_seed = None
    cfg.log_processor = dict(by_epoch=False)
    cfg.param_scheduler = [
        dict(type='MultiStepLR', milestones=[6], gamma=0.1, by_epoch=False, begin=0, end=8)
    ]
    wide = h.classifier(16)
    wide.head.num_classes = 6
    fitnet = dict(type='mmkd.FitNet', tap='backbone.layer4', weight=1.0, **method)
    cfg.model = dict(
        type='mmkd.Distiller', student=cfg.model, methods=dict(fitnet=fitnet),
        teacher=dict(config=wide, checkpoint='untrained'),
    )  # fmt: skip
    cfg.custom_hooks = [dict(type='mmkd.DistillationHook')]
    return cfg


def train(cfg):
    torch.manual_seed(0)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def hook_of(runner):
    return next(hook for hook in runner.hooks if type(hook).__name__ == 'DistillationHook')


def test_parameters_are_in_one_optimizer_each(tmp_path, shapes):
    runner = train(config(tmp_path, shapes, dict(optimizer=ADAM)))
    own = {id(p) for g in hook_of(runner).optimizers['fitnet'].param_groups for p in g['params']}
    students = {id(p) for g in runner.optim_wrapper.param_groups for p in g['params']}
    names = {id(p): n for n, p in runner.model.named_parameters()}
    assert {names[i] for i in own} == {n for n in names.values() if n.startswith('distillation.')}
    assert own | students == set(names)
    assert not own & students


def test_without_an_own_optimizer_the_students_trains_the_method(tmp_path, shapes):
    runner = train(config(tmp_path, shapes, {}))
    assert hook_of(runner).optimizers == {}
    ids = {id(p) for g in runner.optim_wrapper.param_groups for p in g['params']}
    assert ids == {id(p) for p in runner.model.parameters()}


def test_it_is_adamw_with_its_schedule_by_an_independent_loop(tmp_path, shapes):
    """The adapter's course equals that of a hand-written AdamW on the gradients that were seen."""
    seen = []
    runner = Runner.from_cfg(
        config(tmp_path, shapes, dict(optimizer=ADAM, param_scheduler=[COSINE]))
    )
    adapter = runner.model.distillation.fitnet.adapters[0].project
    start = [p.detach().clone() for p in adapter.parameters()]

    def note(optimizer, args, kwargs):
        seen.append([p.grad.clone() for p in adapter.parameters()])

    hook = hook_of(runner)
    install = hook._install
    hook._install = lambda *args: (
        install(*args), hook.optimizers['fitnet'].register_step_pre_hook(note),
    )  # fmt: skip
    runner.train()
    assert len(seen) == 8
    weight, bias = (nn.Parameter(value) for value in start)
    groups = [dict(params=[weight]), dict(params=[bias], weight_decay=0.0)]
    adam = torch.optim.AdamW(groups, lr=0.004, betas=(0.9, 0.95), weight_decay=0.1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 8)
    for grads in seen:
        weight.grad, bias.grad = grads
        adam.step()
        cosine.step()
    torch.testing.assert_close(adapter.weight, weight)
    torch.testing.assert_close(adapter.bias, bias)


def test_learning_rates_are_logged_and_the_students_schedule_is_its_own(tmp_path, shapes):
    runner = train(config(tmp_path, shapes, dict(optimizer=ADAM, param_scheduler=[COSINE])))
    logged = runner.message_hub.log_scalars
    own = logged['train/fitnet/lr'].data[0]
    assert own[0] == pytest.approx(0.004)
    assert own[4] == pytest.approx(0.002)
    assert logged['train/lr'].data[0].tolist() == pytest.approx([0.01] * 6 + [0.001] * 2)


def test_the_students_clipping_does_not_see_the_methods_gradients(tmp_path, shapes):
    cfg = config(tmp_path, shapes, dict(optimizer=ADAM))
    cfg.optim_wrapper.clip_grad = dict(max_norm=1e9)
    norms = []
    runner = Runner.from_cfg(cfg)

    def clip(params, **kwargs):
        norms.append(len(params))
        return torch.zeros(())

    hook = hook_of(runner)
    before_run = hook.before_run
    hook.before_run = lambda r: (before_run(r), setattr(r.optim_wrapper, 'clip_func', clip))
    runner.train()
    plain = [n for n, _ in runner.model.named_parameters() if not n.startswith('distillation.')]
    assert set(norms) == {len(plain)}


def test_accumulated_gradients_step_together(tmp_path, shapes):
    steps = []
    cfg = config(tmp_path, shapes, dict(optimizer=ADAM))
    cfg.optim_wrapper.accumulative_counts = 4
    runner = Runner.from_cfg(cfg)
    hook = hook_of(runner)
    install = hook._install
    hook._install = lambda *args: (
        install(*args),
        hook.optimizers['fitnet'].register_step_pre_hook(lambda *a: steps.append(runner.iter)),
    )
    runner.train()
    assert steps == [3, 7]


def test_a_resumed_run_ends_where_the_uninterrupted_ends(tmp_path, shapes):
    method = dict(optimizer=ADAM, param_scheduler=[COSINE])
    full = train(config(tmp_path / 'full', shapes, method))
    cut = config(tmp_path / 'cut', shapes, method)

    class Stop(Exception):
        pass

    runner = Runner.from_cfg(cut)
    hook = hook_of(runner)
    original = hook.before_train_iter

    def stop(r, *args, **kwargs):
        if r.iter == 4:
            raise Stop
        original(r, *args, **kwargs)

    hook.before_train_iter = stop
    with pytest.raises(Stop):
        runner.train()
    resumed_cfg = copy.deepcopy(cut)
    resumed_cfg.resume = True
    resumed = Runner.from_cfg(resumed_cfg)
    resumed.train()
    assert resumed.iter == 8
    own, expected = (hook_of(r).optimizers['fitnet'].state_dict() for r in (resumed, full))
    assert [g['lr'] for g in own['param_groups']] == [g['lr'] for g in expected['param_groups']]
    steps = [state['step'] for o in (own, expected) for state in o['state'].values()]
    assert {int(step) for step in steps} == {8}


def test_release_keeps_groups_in_their_places():
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([dict(params=[net.weight]), dict(params=[net.bias])], lr=0.1)
    release(optimizer, [net.weight])
    assert [len(g['params']) for g in optimizer.param_groups] == [0, 1]


def test_one_dimensional_parameters_do_not_decay():
    net = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    decays = {id(p): g.get('weight_decay') for g in parameter_groups(net) for p in g['params']}
    assert decays[id(net[0].weight)] is None
    assert {decays[id(p)] for p in (net[0].bias, net[1].weight, net[1].bias)} == {0.0}


@pytest.mark.parametrize(('grad', 'moved'), [(8.0, True), (float('inf'), False)])
def test_a_scaled_gradient_is_unscaled_and_an_overflow_skipped(grad, moved):
    value = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([value], lr=1.0)
    value.grad = torch.tensor([grad])
    step_unscaled(optimizer, scale=4.0)
    assert value.item() == (-2.0 if moved else 0.0)
    assert value.grad is None


def test_one_answer_of_the_device_says_whether_any_gradient_overflowed(monkeypatch):
    values = [nn.Parameter(torch.zeros(n)) for n in (3, 0, 2, 1)]
    optimizer = torch.optim.SGD(values, lr=1.0)
    asked, real = [], torch.Tensor.__bool__
    monkeypatch.setattr(torch.Tensor, '__bool__', lambda x: asked.append(x) or real(x))
    for bad, at in [(float('nan'), 0), (float('-inf'), 2), (1e38, 3)]:
        for value in values:
            value.grad = torch.ones_like(value)
        values[at].grad[-1] = bad
        asked.clear()
        step_unscaled(optimizer, scale=2.0)
        assert len(asked) == 1
        assert (values[0][0] == -0.5) == (bad == 1e38)


class Exploding(Method):
    """A loss that is not finite in some iterations."""

    needs_teacher = False

    def __init__(self, at, **options):
        super().__init__(**options)
        self.at, self.seen = at, 0

    def plan(self, student, teacher):
        self.student_taps = [Tap('backbone.layer4')]

    def forward(self, step):
        self.seen += 1
        loss = step.student[self.student_taps[0]][0].square().mean()
        return {'loss': loss * float('nan') if self.seen - 1 in self.at else loss}


class Weights(Hook):
    """The student's state after each iteration."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append({k: v.clone() for k, v in runner.model.state_dict().items()})


@pytest.fixture
def exploding(tmp_path, shapes):
    def build(at, skip):
        cfg = config(tmp_path, shapes, {})
        cfg.model = dict(
            type='mmkd.Distiller', student=cfg.model.student, skip_nonfinite=skip,
            methods=dict(boom=dict(type=Exploding, at=at)),
        )  # fmt: skip
        runner = Runner.from_cfg(cfg)
        runner.register_hook(weights := Weights())
        return runner, weights

    return build


def test_an_iteration_whose_loss_is_not_finite_is_left_out(exploding):
    runner, weights = exploding([3, 5], 2)
    runner.train()
    assert runner.model.distillation.skipped == 2
    for index, (before, after) in enumerate(zip(weights.seen, weights.seen[1:]), start=1):
        same = [torch.equal(before[name], after[name]) for name in before]
        assert all(same) if index in (3, 5) else not all(same)
        assert all(v.isfinite().all() for v in after.values() if v.is_floating_point())


def test_one_more_than_may_be_left_out_stops_and_names_the_term(exploding, tmp_path):
    runner, weights = exploding([3, 5, 6], 2)
    words = r'^not finite: boom/loss = nan \(skip_nonfinite=2 are used up\)$'
    with pytest.raises(FloatingPointError, match=words):
        runner.train()
    assert len(weights.seen) == 6
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_6.pth')


@pytest.mark.parametrize('skip', [-1, 1.5, 'two'])
def test_a_wrong_number_to_leave_out_is_answered(skip):
    boom = dict(type=Exploding, at=[])
    with pytest.raises(InputError, match=r'skip_nonfinite=.*; needed: a whole number from 0 on'):
        h.build(dict(type='mmkd.Distiller', student=h.classifier(), skip_nonfinite=skip,
                     methods=dict(boom=boom)))  # fmt: skip


def test_leaving_out_needs_the_hook():
    boom = dict(type=Exploding, at=[])
    model = h.build(dict(type='mmkd.Distiller', student=h.classifier(), skip_nonfinite=1,
                         methods=dict(boom=boom)))  # fmt: skip
    with pytest.raises(InputError, match='skip_nonfinite=1: no hook leaves iterations out'):
        h.losses_of(model, 'classifier')


class Early(Hook):
    """Notes the self-teacher's weights at every iteration, and the length of one of the student's."""

    def __init__(self):
        self.seen, self.lengths = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        teacher = runner.model.distillation.frskd.self_teacher
        self.seen.append([p.detach().clone() for p in teacher.parameters()])
        self.lengths.append(runner.model.backbone.layer4[0].conv1.weight.norm().item())


def test_parameters_that_wait_keep_their_values_whatever_the_weight_decay(tmp_path, shapes):
    cfg = h.runner_config('retinanet', tmp_path, shapes)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=6, val_interval=100)
    cfg.train_dataloader.sampler.type = 'InfiniteSampler'
    cfg.default_hooks.checkpoint = None
    cfg.default_hooks.sampler_seed = None
    cfg.log_processor = dict(by_epoch=False)
    cfg.optim_wrapper.optimizer = dict(type='AdamW', lr=0.001, weight_decay=10.0)
    frskd = dict(type='mmkd.FRSKD', warm_up=0.0)  # from iteration 4 of 6 on
    cfg.model = dict(type='mmkd.Distiller', student=cfg.model, methods=dict(frskd=frskd))
    cfg.custom_hooks = [dict(type='mmkd.DistillationHook')]
    torch.manual_seed(0)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(early := Early())
    start = [p.detach().clone() for p in runner.model.distillation.frskd.self_teacher.parameters()]
    runner.train()
    same = [all(torch.equal(a, b) for a, b in zip(start, seen)) for seen in early.seen]
    assert same == [True] * 4 + [False] * 2
    assert early.lengths[3] < 0.98 * early.lengths[0]  # the student's decay
