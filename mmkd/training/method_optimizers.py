"""The hook that runs the methods' own optimisers beside the student's."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from mmengine.dist import master_only
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from ..collectives import local_part, on_any_rank
from ..core.distiller import Distiller, plain_view
from ..core.forms import EXACT, Form
from ..core.method import Method
from ..core.schedules import progress
from ..core.teacher import Teacher
from ..errors import InputError
from ..registry import HOOKS
from .caching import refuse_passing_images
from .manifest import MANIFEST, manifest, refuse_other_training
from .saving import saves_now

KEY = 'method_optimizers'
"""Where a checkpoint keeps the states of the methods' optimisers."""
STATES = 'method_states'
"""Where a checkpoint keeps what methods remember between iterations."""
FORMS = 'teacher_forms'
"""Where a checkpoint keeps in which form each teacher runs, so that a resume measures nothing."""
SHARES = 'method_shares'
"""Where a checkpoint keeps the weights that follow gradients."""
MEASURED = 'gradient_shares'
"""Where a checkpoint keeps the gradient shares that were measured last."""


@HOOKS.register_module()
class DistillationHook(Hook):
    """Gives each method that asks for it an optimiser and a schedule of its own.

    The method's parameters leave the student's optimiser, and with that its gradient clipping. Both
    optimisers step at the same iterations, gradient accumulation and loss scaling included. The
    method's schedulers run with the Runner's, and everything is saved and resumed. Parameters that
    have no part in the losses yet keep their values, whatever the weight decay. Averages (EMAHook)
    are of the plain student: they pair its weights with their copy's by place.
    """

    priority = 'HIGH'

    def __init__(self) -> None:
        self.optimizers: dict[str, Optimizer] = {}
        self._scale = 1.0
        self._manifest: dict[str, str] = {}

    def before_run(self, runner: Runner) -> None:
        """Build the optimisers once those of the Runner exist."""
        methods = methods_of(runner)
        if not methods or not hasattr(runner.optim_wrapper, 'optimizer'):
            return
        bare(runner).distillation.optimizers_installed = True
        refuse_passing_images(runner, teachers_of(runner))
        self._manifest = manifest(bare(runner), runner.cfg.get('model') or {})
        if bare(runner).distillation.skip_nonfinite:
            leave_out(runner.optim_wrapper, bare(runner).distillation)
        for name, method in methods.items():
            if method.optimizer is not None:
                self._install(runner, name, method)
        for optimizer in (runner.optim_wrapper.optimizer, *self.optimizers.values()):
            pass_by_idle(optimizer, bare(runner).distillation)

    def before_train(self, runner: Runner) -> None:
        """Show averages the plain student, and methods the data."""
        show_plain_student(runner)
        for method in methods_of(runner).values():
            method.learn_data(runner.train_dataloader.dataset)

    def before_val(self, runner: Runner) -> None:
        """As before training: a validation may be all that is run."""
        show_plain_student(runner)

    def before_test(self, runner: Runner) -> None:
        """As before training: a test may be all that is run."""
        show_plain_student(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note the loss scale of this iteration and log the learning rates."""
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        self._scale = 1.0 if scaler is None or not self.optimizers else scaler.get_scale()
        for name, optimizer in self.optimizers.items():
            runner.message_hub.update_scalar(f'train/{name}/lr', optimizer.param_groups[0]['lr'])

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Step when the student's optimiser has stepped; write down what was measured of teachers."""
        if self.optimizers and runner.optim_wrapper.should_update():
            for optimizer in self.optimizers.values():
                step_unscaled(optimizer, self._scale)
        write_forms(runner)
        if any(saves_now(hook, runner) for hook in runner.hooks):
            settle(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Nothing is saved of an epoch whose last losses were not finite."""
        settle(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Save the optimisers' states, what methods remember, and what all was trained with."""
        if self._manifest:
            checkpoint[MANIFEST] = self._manifest
        methods = methods_of(runner)
        states = {name: on_cpu(method.training_state()) for name, method in methods.items()}
        if any(state is not None for state in states.values()):
            checkpoint[STATES] = states
        shares = {name: m.share.state() for name, m in methods.items() if m.share is not None}
        if shares:
            checkpoint[SHARES] = shares
        if methods:
            checkpoint[MEASURED] = on_cpu(bare(runner).distillation.shares.state())
        checkpoint[FORMS] = {
            name: asdict(teacher.form)
            for name, teacher in teachers_of(runner).items()
            if teacher.settled
        }
        if self.optimizers:
            checkpoint[KEY] = {name: o.state_dict() for name, o in self.optimizers.items()}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Resume the optimisers' states, and what methods remember."""
        if not runner._resume or not self._manifest:
            return
        refuse_other_training(checkpoint.get(MANIFEST), self._manifest)
        for name, method in methods_of(runner).items():
            if (state := checkpoint.get(STATES, {}).get(name)) is not None:
                method.resume_training(on_cpu(state))
            if method.share is not None and name in checkpoint.get(SHARES, {}):
                method.share.resume(checkpoint[SHARES][name])
        if MEASURED in checkpoint:
            bare(runner).distillation.shares.resume(on_cpu(checkpoint[MEASURED]))
        for name, form in checkpoint.get(FORMS, {}).items():
            if teachers_of(runner)[name].free:
                teachers_of(runner)[name].keep(Form(**form))
        for name, optimizer in self.optimizers.items():
            if name in checkpoint.get(KEY, {}):
                optimizer.load_state_dict(on_cpu(checkpoint[KEY][name]))
            else:
                print_log(
                    f'methods.{name}: the checkpoint has no optimizer state for it; it starts anew',
                    'current',
                    logging.WARNING,
                )

    def _install(self, runner: Runner, name: str, method: Method) -> None:
        refuse_several(name, runner.optim_wrapper)
        parameters = [p for p in method.parameters() if p.requires_grad]
        if not parameters:
            return
        release(runner.optim_wrapper.optimizer, parameters)
        groups = parameter_groups(method)
        optimizer = OPTIMIZERS.build(dict(method.optimizer or {}, params=groups))
        self.optimizers[name] = optimizer
        self._schedule(runner, method, optimizer)

    def _schedule(self, runner: Runner, method: Method, optimizer: Optimizer) -> None:
        if method.param_scheduler and runner.param_schedulers is None:
            runner.param_schedulers = []
        for config in method.param_scheduler:
            known: dict[str, Any] = {'optimizer': optimizer}
            config = in_iterations(config, runner.max_iters)
            if config.get('convert_to_iter_based'):
                known['epoch_length'] = len(runner.train_dataloader)
            runner.param_schedulers.append(PARAM_SCHEDULERS.build(config, default_args=known))


def bare(runner: Runner) -> Any:
    """The Runner's model without the wrapper of distributed training."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def methods_of(runner: Runner) -> dict[str, Method]:
    """The methods of the Runner's model; none if it is no Distiller."""
    model = bare(runner)
    return model.distillation.methods if isinstance(model, Distiller) else {}


def teachers_of(runner: Runner) -> dict[str, Teacher]:
    """The teachers of the Runner's model; none if it is no Distiller."""
    model = bare(runner)
    return model.distillation.teachers if isinstance(model, Distiller) else {}


def settle(runner: Runner) -> None:
    """Stop if the losses of the last iteration were not finite; all ranks must come here."""
    model = bare(runner)
    if isinstance(model, Distiller):
        model.distillation.settle()


@master_only
def write_forms(runner: Runner) -> None:
    """Write the forms of teachers that have just been measured into the config that is dumped."""
    written = {name: t for name, t in teachers_of(runner).items() if t.measured}
    spec = (runner.cfg.get('model') or {}).get('teacher')
    for name, teacher in written.items():
        teacher.measured = False
        if spec is None:  # the Runner was given a model that was built already
            continue
        own = spec if 'config' in spec else spec[name]
        own.pop('speed', None)
        own.update(dict(speed='exact') if teacher.form == EXACT else asdict(teacher.form))
    if written:
        runner.dump_config()


def on_cpu(state: Any) -> Any:
    """A nest of dicts, lists and tuples with its tensors on the CPU.

    A Runner loads a checkpoint onto its device, and generators take their states from the CPU alone.

    >>> on_cpu({'seen': [(torch.ones(1), 'two')]})
    {'seen': [(tensor([1.]), 'two')]}
    """
    if isinstance(state, Tensor):
        return state.detach().cpu()
    if isinstance(state, Mapping):
        return {key: on_cpu(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(on_cpu(value) for value in state)
    return state


def show_plain_student(runner: Runner) -> None:
    """Let the Runner's averages see the student without the methods' parameters and buffers.

    mmengine chains parameters and buffers and pairs those of the model with the copy's by place.
    """
    for hook in runner.hooks:
        if isinstance(hook, EMAHook) and isinstance(hook.src_model, Distiller):
            hook.src_model = plain_view(hook.src_model)


def leave_out(wrapper: Any, distillation: Any) -> None:
    """Keep an optimiser from stepping in iterations that are left out."""
    update = wrapper.update_params

    def update_params(*args: Any, **kwargs: Any) -> None:
        if not distillation.skipping:
            update(*args, **kwargs)

    wrapper.update_params = update_params


def pass_by_idle(optimizer: Optimizer, distillation: Any) -> None:
    """Keep an optimiser from parameters that have no part in the losses yet.

    Their gradient is zero, which distributed training needs and weight decay does not care for.
    """

    def forget(*_: Any) -> None:
        for parameter in distillation.idle_parameters(progress()):
            parameter.grad = None

    optimizer.register_step_pre_hook(forget)


def refuse_several(name: str, wrapper: Any) -> None:
    """Stop if a method's parameters cannot be taken out of the student's optimiser."""
    kind = ''
    if isinstance(wrapper, OptimWrapperDict):
        kind = 'several optimizers of the student'
    elif type(wrapper.optimizer).__name__ == 'ZeroRedundancyOptimizer':
        kind = 'a ZeroRedundancyOptimizer, which has dealt its parameters to the ranks already,'
    if kind:
        raise InputError(
            f'methods.{name}: an own optimizer beside {kind} is not possible; set '
            f'methods.{name}.optimizer=None'
        )


def in_iterations(config: Mapping[str, Any], total: int) -> dict[str, Any]:
    """A scheduler's config with its ``share`` of the training as iterations.

    >>> in_iterations(dict(type='LinearLR', share=(0.0, 0.1)), 500)
    {'type': 'LinearLR', 'by_epoch': False, 'begin': 0, 'end': 50}
    """
    plain = dict(config)
    if 'share' not in plain:
        return plain
    share = plain.pop('share')
    if len(share) != 2 or not 0 <= share[0] < share[1] <= 1:
        raise InputError(
            f'param_scheduler: share={share}; needed: (begin, end) with 0 <= begin < end <= 1'
        )
    begin, end = (round(total * part) for part in share)
    return plain | dict(by_epoch=False, begin=begin, end=max(end, begin + 1))


def release(optimizer: Optimizer, parameters: list[nn.Parameter]) -> None:
    """Take parameters out of an optimiser; its groups stay, so that schedules keep their places."""
    gone = {id(parameter) for parameter in parameters}
    for group in optimizer.param_groups:
        group['params'] = [p for p in group['params'] if id(p) not in gone]


def parameter_groups(method: nn.Module) -> list[dict[str, Any]]:
    """A method's parameters in two groups: those that decay, and the one-dimensional, which do not.

    >>> [len(group['params']) for group in parameter_groups(nn.Linear(2, 2))]
    [1, 1]
    """
    trained = [p for p in method.parameters() if p.requires_grad]
    decaying = [p for p in trained if p.dim() > 1]
    other = [p for p in trained if p.dim() <= 1]
    groups: list[dict[str, Any]] = [{'params': decaying}, {'params': other, 'weight_decay': 0.0}]
    return [group for group in groups if group['params']]


def step_unscaled(optimizer: Optimizer, scale: float) -> None:
    """Undo the loss scale, step unless a gradient overflowed, and clear the gradients."""
    grads = [p.grad for g in optimizer.param_groups for p in g['params'] if p.grad is not None]
    if scale != 1.0:
        torch._foreach_div_(grads, scale)
    if scale == 1.0 or all_finite(grads):
        optimizer.step()
    optimizer.zero_grad()


def all_finite(grads: Sequence[Tensor]) -> bool:
    """Whether no number is NaN or infinite, on any rank if they are sharded; read from the device once.

    >>> all_finite([torch.ones(2), torch.zeros(0)]), all_finite([torch.tensor(float('nan'))])
    (True, False)
    """
    own = [local_part(grad) for grad in grads]
    largest = torch._foreach_norm([grad for grad in own if grad.numel()], torch.inf)
    finite = not largest or bool(torch.stack(largest).isfinite().all())
    sharded = any(part is not grad for part, grad in zip(own, grads))
    return not on_any_rank(not finite)[0] if sharded else finite
