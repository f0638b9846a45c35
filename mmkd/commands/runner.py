"""From a config to OpenMMLab's Runner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel
from mmengine.registry import OPTIMIZERS, RUNNERS, DefaultScope
from mmengine.runner import Runner

from ..core.distiller import Distiller, plain_view
from ..core.options import AtLeast, Count, Has, check_value
from ..errors import InputError, nearest, reason_of
from ..files.checkpoints import load_fitting, load_weights, read_checkpoint, weights_of
from ..files.data import check_datasets
from ..files.safety import protect
from ..files.writing import refuse_unwritable
from ..training.method_optimizers import bare
from ..training.processes import prepare_ranks

LOOPS = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}
"""What each loop needs; mmengine wants all of a loop or nothing."""
NUMBERS: Mapping[str, Any] = {
    'batch_size': Count,
    'num_workers': Annotated[int, AtLeast(0)],
    'max_epochs': Count,
    'max_iters': Count,
    'val_interval': Count,
}


def build_runner(cfg: Config) -> Runner:
    """Build the config's Runner; within ``mmkd.trusting()`` its checkpoints can execute code."""
    protect()
    prepare_ranks(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


@contextmanager
def wrong_config() -> Iterator[None]:
    """What fails while a config is looked at is wrong in the config."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f'config: cannot be used ({reason_of(error)})') from error


def check_files(cfg: Config, parts: tuple[str, ...], trust_checkpoint: bool = False) -> None:
    """Answer sections, data sets and checkpoints that are missing or cannot be read, before anything is built.

    Args:
        cfg: the config.
        parts: the loops that will run, the one that is asked for first.
        trust_checkpoint: unpickle without restriction.
    """
    for part in parts:
        check_loop(cfg, part, needed=part == parts[0])
    check_datasets(cfg, parts)
    if cfg.get('work_dir') is not None:
        refuse_unwritable(cfg.work_dir, 'work_dir')
    if (source := cfg.get('load_from')) is not None:
        content = read_checkpoint(source, trust=trust_checkpoint)
        if cfg.get('resume'):
            _refuse_no_training(source, content)
            _take_seed(cfg, content)


def check_loop(cfg: Config, part: str, needed: bool = True) -> None:
    """Answer what a loop lacks, and numbers that are none.

    >>> check_loop(Config(dict(test_cfg=dict(), test_evaluator=dict(type='Accuracy'))), 'test')
    Traceback (most recent call last):
    ...
    mmkd.errors.InputError: test_dataloader: missing in the config; needed: test_dataloader, test_cfg, \
test_evaluator
    """
    names = LOOPS[part]
    absent = [name for name in names if cfg.get(name) is None]
    if absent and (needed or len(absent) < len(names)):
        raise InputError(f'{absent[0]}: missing in the config; needed: {", ".join(names)}')
    if absent:
        return
    loader, loop = cfg[f'{part}_dataloader'], cfg[f'{part}_cfg']
    check_value(f'{part}_cfg', loop, Mapping)
    check_value(f'{part}_dataloader', loader, Annotated[Mapping[str, Any], Has('dataset')])
    check_value(f'{part}_dataloader.dataset', loader['dataset'], Mapping)
    for options, where in ((loader, f'{part}_dataloader'), (loop, f'{part}_cfg')):
        for name in options.keys() & NUMBERS.keys():
            check_value(f'{where}.{name}', options[name], NUMBERS[name])
    if part == 'train':
        check_optimizer(cfg)


def check_optimizer(cfg: Config) -> None:
    """Answer an optimiser that is not registered; mmengine looks at its signature before."""
    check_value('optim_wrapper', cfg.optim_wrapper, Mapping)
    optimizer = cfg.optim_wrapper.get('optimizer') or {}
    check_value('optim_wrapper.optimizer', optimizer, Mapping)
    kind, known = optimizer.get('type'), set(OPTIMIZERS.module_dict)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
            raise InputError(f'optim_wrapper.optimizer.type={kind!r}; {nearest(kind, known)}')


def check_weights(cfg: Config, runner: Any, trust: bool = False, whole: bool = False) -> None:
    """Stop if the checkpoint that a Runner will load is not its model's.

    Args:
        cfg: the Runner's config.
        runner: nothing is loaded into it yet.
        trust: unpickle without restriction.
        whole: whether every weight must be there; otherwise only where training is resumed, and some.
    """
    if cfg.get('load_from') is None or not isinstance(runner, Runner):
        return
    model = bare(runner)
    model = model.module if isinstance(model, BaseTTAModel) else model
    student = plain_view(model) if isinstance(model, Distiller) else model
    weights = weights_of(read_checkpoint(cfg.load_from, trust))
    told = isinstance(model, Distiller)  # what differs from the training that is resumed
    if whole or (cfg.get('resume') and not told):
        load_fitting(student, weights, cfg.load_from)
    elif not (report := load_weights(student, weights)).loaded:
        raise InputError(
            f'load_from={cfg.load_from}: nothing in it is of this model: {report}; training would start '
            'from random weights'
        )


def register_hooks(runner: Any, *hooks: Hook | type[Hook]) -> None:
    """Add hooks of kinds that the config does not have; only the usual Runner has a use for them."""
    for hook in hooks if isinstance(runner, Runner) else ():
        kind = hook if isinstance(hook, type) else type(hook)
        if not any(isinstance(given, kind) for given in runner.hooks):
            runner.register_hook(kind() if hook is kind else hook)


def default_work_dir(config: str | Path | Config, method: str | None) -> str:
    """Where a training's files go if nobody says: named after the config and the method."""
    name = config.filename if isinstance(config, Config) else str(config)
    stem = Path(str(name or 'config').split('::')[-1]).stem
    return str(Path('work_dirs', stem if method is None else f'{stem}_{method}'))


def _refuse_no_training(source: str, content: Mapping[str, Any]) -> None:
    """Stop if a checkpoint does not hold what training goes on from."""
    meta = content.get('meta')
    found = {**content, **(meta if isinstance(meta, Mapping) else {})}
    missing = [
        name
        for name in ('state_dict', 'optimizer', 'message_hub', 'epoch', 'iter')
        if name not in found
    ]
    if missing:
        raise InputError(
            f'--resume {source}: no checkpoint of a training: {", ".join(missing)} missing; to start from '
            f'its weights: --cfg-options load_from={source}'
        )


def _take_seed(cfg: Config, checkpoint: Mapping[str, Any]) -> None:
    """Resume with the checkpoint's seed where the config has none: samplers are built with it."""
    randomness = dict(cfg.get('randomness') or {})
    seed = (checkpoint.get('meta') or {}).get('seed')
    if randomness.get('seed') is None and seed is not None:
        cfg.randomness = {**randomness, 'seed': seed}
