"""From any project's config to a distillation config: the flag ``--distill`` and the Python call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from ..core.method import build_method, find_method
from ..errors import InputError, refuse_unknown
from ..family.building import is_distiller, load_config, model_config
from ..family.sizes import small_size
from .unlabelled import with_labels, without_labels

HOOK = 'mmkd.DistillationHook'


def distill(
    cfg: Config | str | Path,
    method: str | Mapping[str, Any],
    teacher: Any = None,
    checkpoint: Any = None,
    options: Mapping[str, Any] | None = None,
    no_labels: bool | str | Path = False,
) -> Config:
    """Make a distillation config of a student's; the given one is left as it is.

    Args:
        cfg: the student's config, a file of one, or a ``package::`` name.
        method: names joined by ``+``, each with its weight behind a colon if not the usual one
            (``'pkd:3+kd'``), or options by name (``dict(pkd=dict(weight=3.0))``).
        teacher: the teacher's config (file, ``package::`` name or Config); several as a dict by name.
        checkpoint: its weights; for several teachers a dict by the same names.
        options: more options: ``dict(pkd=dict(weight=3.0), teacher=dict(precision='bf16'))``.
        no_labels: turn the student's own losses off and train on images alone: True for those of the config's
            training data, or a folder of them.

    Returns:
        A config that trains with any OpenMMLab Runner.

    >>> cfg = distill('mmpretrain::resnet/resnet18_8xb32_in1k.py', dict(kd=dict(temperature=1.0)),
    ...               teacher='t.py', checkpoint='t.pth', options=dict(teacher=dict(precision='bf16')))
    >>> cfg.model.methods, cfg.model.teacher.precision
    ({'kd': {'type': 'mmkd.KD', 'temperature': 1.0}}, 'bf16')
    """
    result = load_config(cfg)
    if is_distiller(result.model):
        raise InputError(
            'distill: the config is a Distiller already; give the plain student config, or train '
            'it without --distill'
        )
    chosen, teacher_options = _merge(
        _methods(method), _options('options', options or {}), isinstance(method, str)
    )
    spec = _teachers(teacher, checkpoint, teacher_options)
    _check_need(chosen, spec)
    model = ConfigDict(type='mmkd.Distiller', student=model_config(result), methods=chosen)
    if spec:
        model.teacher = spec
    if size := small_size(result):
        model.image_size = size
    if no_labels is not False:
        model.labels = False
        without_labels(result, None if no_labels is True else no_labels)
    result.model = model
    add_runtime(result)
    return result


def _methods(method: str | Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Options by name, with the type in front."""
    given: Any = method.items() if isinstance(method, Mapping) else ()
    given = _flagged(method) if isinstance(method, str) else given
    if not given:
        raise InputError(f"distill: method={method!r}; needed: a method's name ('pkd', 'pkd:3+kd')")
    chosen: dict[str, dict[str, Any]] = {}
    for name, own in given:
        options = _options(name, own)
        kind = find_method(str(options.pop('type', name)))
        short = str(name).lower().replace('-', '_')
        if short in chosen:
            raise InputError(
                f'distill: {method!r} names {short} twice, and one would be trained; two of a kind have '
                f"names of their own: methods=dict(a=dict(type='mmkd.{kind.__name__}'), b=...)"
            )
        chosen[short] = dict(type=f'mmkd.{kind.__name__}', **options)
    return chosen


def _flagged(flag: str) -> list[tuple[str, dict[str, Any]]]:
    """The methods of a flag and their options: names joined by ``+``, a weight behind a colon.

    >>> _flagged('pkd:3 + ld')
    [('pkd', {'weight': 3.0}), ('ld', {})]
    """
    parts = [part.partition(':') for part in flag.split('+')]
    return [
        (name.strip(), {'weight': _weight(f'{name}:{weight}', weight.strip())} if colon else {})
        for name, colon, weight in parts
    ]


def _weight(part: str, text: str) -> float | str:
    """A method's weight as it stands in a flag; what a weight may be is checked with the other options."""
    if text == 'auto':
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(
            f'distill: {part.strip()!r}: the weight {text!r} is no number; needed: NAME, or NAME:WEIGHT as in '
            "'pkd:3+kd' ('pkd:auto' follows the gradients); other options: pkd.temperature=2.0"
        ) from None


def _options(name: str, options: Any) -> dict[str, Any]:
    """Options as a dict of their own."""
    if not isinstance(options, Mapping):
        raise InputError(
            f'distill: {name}={options!r}; needed: options by name, as {name}.weight=2.0 gives them'
        )
    return dict(options)


def _merge(
    chosen: dict[str, dict[str, Any]], options: Mapping[str, Any], flagged: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    teacher = _options('teacher', options.get('teacher', {}))
    for name, extra in options.items():
        if name == 'teacher':
            continue
        if name not in chosen:
            raise InputError(f'distill: options for {name!r}, which is not among {list(chosen)}')
        extra = _options(name, extra)
        if flagged and 'weight' in chosen[name] and 'weight' in extra:
            raise InputError(
                f'distill: {name}.weight={extra["weight"]!r} beside {name}:{chosen[name]["weight"]}; the '
                'weight is given twice: leave one of them out'
            )
        chosen[name].update(extra)
    return chosen, teacher


def _teachers(teacher: Any, checkpoint: Any, options: dict[str, Any]) -> dict[str, Any] | None:
    if teacher is None:
        if checkpoint is not None:
            raise InputError(
                f'distill: checkpoint={checkpoint!r} without a teacher; give --teacher CONFIG'
            )
        return None
    if isinstance(teacher, Mapping) and not isinstance(teacher, Config):
        checkpoints = _by_teacher('checkpoint', checkpoint or {}, teacher)
        own = _by_teacher("options['teacher']", options, teacher)
        return {
            name: _teacher(config, checkpoints.get(name), _options(name, own.get(name, {})))
            for name, config in teacher.items()
        }
    return _teacher(teacher, checkpoint, options)


def _by_teacher(what: str, given: Any, teachers: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is given for several teachers, by their names."""
    if not isinstance(given, Mapping):
        raise InputError(
            f'distill: {what}={given!r}; needed: a dict by the names of the teachers {list(teachers)}'
        )
    refuse_unknown(f'distill: {what}', given, teachers)
    return given


def _teacher(config: Any, checkpoint: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    source = model_config(config) if isinstance(config, Config) else str(config)
    weights = {} if checkpoint is None else {'checkpoint': str(checkpoint)}
    return dict(config=source, **weights, **options)


def _check_need(chosen: Mapping[str, Mapping[str, Any]], spec: Any) -> None:
    """Answer wrong options, and a teacher too many or too few, before anything is built."""
    built = {name: build_method(name, config) for name, config in chosen.items()}
    needing = [name for name, method in built.items() if method.needs_teacher]
    if needing and not spec:
        raise InputError(
            f'distill: {needing[0]} needs a teacher; add --teacher CONFIG --teacher-checkpoint FILE'
        )
    if spec and not needing:
        raise InputError(
            f'distill: {", ".join(built)} is a self-method and takes no teacher; leave --teacher out'
        )


def add_runtime(cfg: Config, hook: str = HOOK) -> None:
    """Let a config import mmkd and have one of its hooks."""
    imports = copy.deepcopy(cfg.get('custom_imports') or dict(imports=[]))
    names = imports['imports']
    names = [names] if isinstance(names, str) else names
    # first, because importing mmkd makes a broken torchvision importable for the others
    imports['imports'] = ['mmkd', *(name for name in names if name != 'mmkd')]
    cfg.custom_imports = imports
    add_hook(cfg, hook)


def add_hook(cfg: Config, kind: str = HOOK) -> None:
    """Add a hook of ours, by default the one that runs the methods' optimisers, unless the config has it."""
    hooks = list(cfg.get('custom_hooks') or [])
    if not any(hook.get('type') in (kind, kind.rpartition('.')[2]) for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type=kind)]


def plain_config(cfg: Config) -> Config:
    """A distillation config with the plain student in its place and nothing of mmkd; others stay as they are.

    >>> from mmkd import distill
    >>> cfg = distill('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', 'pkd',
    ...               teacher='t.py', checkpoint='t.pth')
    >>> plain_config(cfg).model.type, 'custom_hooks' in plain_config(cfg)
    ('RetinaNet', False)
    """
    plain = load_config(cfg)
    if not is_distiller(plain.model):
        return plain
    with_labels(plain)
    plain.model = model_config(plain)
    plain.model.pop('_scope_', None)
    _strip_list(plain, 'custom_hooks', lambda hook: str(hook.get('type')).startswith('mmkd.'))
    imports = plain.get('custom_imports')
    if imports is not None:
        _strip_list(imports, 'imports', lambda name: name == 'mmkd')
        if not imports.get('imports'):
            plain.pop('custom_imports')
    return plain


def _strip_list(holder: Any, key: str, unwanted: Callable[[Any], bool]) -> None:
    """Drop the unwanted from a list in a config, and the list if nothing is left."""
    values = holder.get(key)
    if values is None:
        return
    values = [values] if isinstance(values, str) else values
    kept = [value for value in values if not unwanted(value)]
    if kept:
        holder[key] = kept
    else:
        holder.pop(key)
