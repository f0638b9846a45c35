"""The model that the Runner trains: the student, of a class that adds distillation to its loss.

A Distiller *is* its student. The object is built by the student's own toolbox from the student's
own config; then its class becomes a subclass of its own class with :class:`Distiller` in front.
So parameter names, checkpoints, optimiser options, hooks that reach for attributes, test-time
augmentation and predictions are the student's, because nothing stands between.
"""

from __future__ import annotations

import copy
import functools
import inspect
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import torch
import torch.distributed as dist
from mmengine.config import ConfigDict
from torch import nn

from ..errors import InputError, refuse_unknown
from ..family.building import build_model
from ..files.safety import protect
from ..registry import MODELS
from .engine import Distillation
from .method import build_method
from .options import AtLeast, check_options
from .shares import EVERY
from .teacher import Teacher


class Distiller:
    """Put in front of a student's class: its training loss gains the methods' terms.

    In every mode but ``loss`` it is the student. A deep copy is a plain student, which is what
    averaged copies (EMA) are made of.
    """

    distillation: Distillation

    def forward(
        self, inputs: Any, data_samples: Any = None, mode: str = 'tensor', **options: Any
    ) -> Any:
        """The student's forward; with ``mode='loss'`` the methods' losses come with the student's."""
        task = functools.partial(
            super().forward,  # type: ignore[misc]
            inputs,
            data_samples,
            mode=mode,
            **options,
        )
        if mode != 'loss':
            return task()
        return self.distillation(self, task, inputs, data_samples)

    def init_weights(self) -> None:
        """The student's initialisation, then whatever the methods make of the fresh weights."""
        super().init_weights()  # type: ignore[misc]
        self.distillation.after_init(self)  # type: ignore[arg-type]

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        plain = student_class(self)
        twin = plain.__new__(plain)
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(vars(plain_view(self)), memo))
        return twin


@MODELS.register_module(name='Distiller')
def build_distiller(
    student: Mapping[str, Any],
    methods: Mapping[str, Any],
    teacher: Mapping[str, Any] | None = None,
    data_preprocessor: Mapping[str, Any] | None = None,
    check_gradients: bool = True,
    skip_nonfinite: int = 0,
    image_size: int | None = None,
    labels: bool = True,
    share_every: Annotated[int, AtLeast(0)] = EVERY,
) -> nn.Module:
    """Build a Distiller from its config.

    Args:
        student: the student's model config, unchanged.
        methods: method configs by name: ``dict(pkd=dict(type='mmkd.PKD', weight=6.0))``.
        teacher: the options of one :class:`mmkd.Teacher`, or a dict of such options by name.
        data_preprocessor: what the Runner adds from the top level of a config; the student's.
        check_gradients: see :class:`Distillation`.
        skip_nonfinite: likewise; by default the first loss that is not finite stops training.
        image_size: the size of square image at which the networks are dry-run first; then sizes are tried that
            the networks state, 128, 224 and 384. ``mmkd.distill`` takes it from the config's test pipeline.
        labels: False turns the student's own losses off, so that images without labels will do.
        share_every: see :class:`Distillation`.
    """
    protect()
    given = dict(
        student=student, check_gradients=check_gradients, labels=labels, share_every=share_every
    )
    check_options('Distiller', build_distiller, given)
    config = ConfigDict(copy.deepcopy(dict(student)))
    if data_preprocessor is not None:
        config.setdefault('data_preprocessor', data_preprocessor)
    model = build_model(config)
    refuse_cpu_sync_bn(model)
    with untouched_randomness():
        teachers = build_teachers(teacher)
        built = {name: build_method(name, cfg) for name, cfg in _checked(methods).items()}
        _refuse_idle_teachers(teachers, built)
        distillation = Distillation(
            model,
            config,
            teachers,
            built,
            check_gradients,
            skip_nonfinite,
            image_size,
            labels,
            share_every,
        )
    model.__class__ = distilled(type(model))  # type: ignore[arg-type]
    model.distillation = distillation
    return model


@functools.cache
def distilled(student: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a student's class that distils."""
    return type(f'Distilled{student.__name__}', (Distiller, student), {'__module__': __name__})


def student_class(model: Distiller) -> type[nn.Module]:
    """The student's own class."""
    bases = type(model).__mro__
    return bases[bases.index(Distiller) + 1]


def plain_view(model: Distiller) -> nn.Module:
    """The plain student on the Distiller's own weights, for code that pairs it with a plain copy."""
    plain = student_class(model)
    view = plain.__new__(plain)
    vars(view).update(vars(model))
    view._modules = {k: v for k, v in view._modules.items() if k != 'distillation'}
    return view


def build_teachers(spec: Mapping[str, Any] | None) -> dict[str, Teacher]:
    """Build one teacher from its options, or several from a dict of options by name."""
    if spec is None:
        return {}
    if not isinstance(spec, Mapping) or not spec:
        raise InputError(f"teacher: {spec!r}; needed: dict(config='...', checkpoint='...')")
    if 'config' in spec or not all(isinstance(value, Mapping) for value in spec.values()):
        return {'teacher': _build_teacher('teacher', spec)}
    return {name: _build_teacher(name, options) for name, options in spec.items()}


def _build_teacher(name: str, options: Mapping[str, Any]) -> Teacher:
    known = set(inspect.signature(Teacher).parameters) - {'name'}
    refuse_unknown(f'teacher {name!r}' if name != 'teacher' else name, options, known)
    if 'config' not in options:
        raise InputError(
            f"teacher {name!r}: config is missing; needed: dict(config='teacher.py', checkpoint='...')"
        )
    return Teacher(**options, name=name)


def _checked(methods: Any) -> Mapping[str, Any]:
    if not isinstance(methods, Mapping) or not methods:
        raise InputError(f"methods: {methods!r}; needed: dict(pkd=dict(type='mmkd.PKD'))")
    return methods


def _refuse_idle_teachers(teachers: Mapping[str, Teacher], methods: Mapping[str, Any]) -> None:
    if teachers and not any(method.needs_teacher for method in methods.values()):
        names = ', '.join(type(method).__name__ for method in methods.values())
        raise InputError(
            f'teacher: given, but {names} needs none: every method here is a self-method; leave '
            'the teacher out (--teacher), or add a method that listens to it'
        )


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """Put every random generator back where it was, so that the student trains as if alone."""
    python, numpy = random.getstate(), np.random.get_state()
    # only this process's device: the default would wake up every one of the machine
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices, device_type='cuda'):
        yield
    random.setstate(python)
    np.random.set_state(numpy)


def refuse_cpu_sync_bn(student: nn.Module) -> None:
    """Stop on CPU ranks if BatchNorms are to be synchronised, which torch and mmcv do on GPUs only."""
    if torch.cuda.is_available() or not (dist.is_available() and dist.is_initialized()):
        return
    places = [n for n, m in student.named_modules() if type(m).__name__ == 'SyncBatchNorm']
    if places:
        module = student.get_submodule(places[0])
        kind = 'SyncBN' if isinstance(module, nn.SyncBatchNorm) else 'MMSyncBN'
        raise InputError(
            f'norm_cfg=dict(type={kind!r}): {places[0]} of the student and {len(places) - 1} more; on '
            "CPU ranks nothing synchronises them: take type='BN' (of RTMDet also use_syncbn=False), frozen "
            "(the backbone's norm_eval=True) or each rank's own, or type='GN', or train without a launcher"
        )
