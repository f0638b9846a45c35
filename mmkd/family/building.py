"""Reading configs of the family: files, ``package::`` names, and what their model part says."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.utils import MODULE2PACKAGE, _get_cfg_metainfo, _get_package_and_cfg_path
from mmengine.registry import MODELS, DefaultScope
from mmengine.utils import get_installed_path
from torch import nn

from ..errors import InputError, nearest, reason_of
from .outside import outside_config

CONFIG_SUFFIXES = ('.py', '.json', '.yml', '.yaml')


def load_config(source: str | Path | Config) -> Config:
    """Read a config from a file or a ``package::`` name; a Config is copied.

    The network of a ``timm::`` or ``hf::`` name becomes the config of a teacher.

    >>> load_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py').model.type
    'RetinaNet'
    """
    cfg = copy.deepcopy(source) if isinstance(source, Config) else _read_config(source)
    refuse_without_model(cfg, source)
    return cfg


def refuse_without_model(cfg: Mapping[str, Any], source: Any = None) -> None:
    """Stop if a config has no model that could be built."""
    model = cfg.get('model')
    if not isinstance(model, Mapping) or 'type' not in model:
        named = isinstance(source, (str, Path))
        name = source if named else getattr(cfg, 'filename', None)
        raise InputError(
            f"config {name or 'given'}: model={model!r:.80}; needed: model=dict(type='...', ...), as every "
            'config of a network has it'
        )


def _read_config(source: str | Path) -> Config:
    """Run a config file; whatever goes wrong in it is wrong input."""
    if (model := outside_config(str(source))) is not None:
        return Config(dict(model=model))
    try:
        path = config_path(str(source))
        if path.is_file() and path.suffix not in CONFIG_SUFFIXES:
            raise InputError(
                f'config {source}: no config; needed: a file that ends in {", ".join(CONFIG_SUFFIXES)} '
                '(weights have an argument of their own)'
            )
        return _without_our_scope(Config.fromfile(path))
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f'config {source}: no such file ({error})') from error
    except Exception as error:  # a config is code, which can fail in any way
        raise InputError(f'config {source}: cannot be read ({reason_of(error)})') from error


def _without_our_scope(cfg: Config) -> Config:
    """A config that stands on an ``mmkd::`` one, as if it stood on its file.

    mmengine marks what comes from there with our scope, in which the toolboxes' names are not found; our own
    names say ``mmkd.`` themselves.
    """
    waiting: list[Any] = [cfg._cfg_dict]
    while waiting:
        place = waiting.pop()
        if isinstance(place, dict):
            if dict.get(place, '_scope_') == 'mmkd':
                del place['_scope_']
            waiting += dict.values(place)  # which builds nothing that is lazy
        elif isinstance(place, (list, tuple)):
            waiting += place
    return cfg


def config_path(name: str) -> Path:
    """The file of a config, also of a ``package::`` name. Nothing is installed or downloaded.

    >>> config_path('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py').name
    'retinanet_r18_fpn_1x_coco.py'
    """
    if '::' not in name:
        return Path(name)
    package = name.partition('::')[0]
    if package not in MODULE2PACKAGE:
        raise InputError(
            f'config {name}: unknown package {package!r}; {nearest(package, MODULE2PACKAGE)}'
        )
    package, inner = _get_package_and_cfg_path(name)
    inner = inner if inner.endswith('.py') else f'{inner}.py'
    return Path(get_installed_path(package), '.mim', 'configs', inner)


def zoo_checkpoint(source: Any) -> str | None:
    """Where the model zoo keeps the weights of a ``package::`` config, None if it names none."""
    if not isinstance(source, str) or '::' not in source or outside_config(source):
        return None
    package, inner = _get_package_and_cfg_path(source)
    try:
        meta = _get_cfg_metainfo(get_installed_path(package), inner)
    except (ValueError, FileNotFoundError):
        return None
    return meta.get('Weights')


def model_config(cfg: Mapping[str, Any]) -> ConfigDict:
    """The model of a config, complete with its data preprocessor and scope; of a distillation, its student.

    >>> cfg = Config(dict(default_scope='mmdet', model=dict(type='X'), data_preprocessor=dict(type='P')))
    >>> model_config(cfg)
    {'type': 'X', 'data_preprocessor': {'type': 'P'}, '_scope_': 'mmdet'}
    """
    refuse_without_model(cfg)
    model = ConfigDict(copy.deepcopy(cfg['model']))
    if is_distiller(model):
        model = model.student
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg['data_preprocessor']))
    if cfg.get('default_scope') is not None:
        model.setdefault('_scope_', cfg['default_scope'])
    return model


def is_distiller(model: Any) -> bool:
    """Whether a model config is a Distiller's."""
    return isinstance(model, Mapping) and model.get('type') in ('mmkd.Distiller', 'Distiller')


def build_model(config: Mapping[str, Any]) -> nn.Module:
    """Build a model of any toolbox; its own scope, or the running one, decides where names are looked up."""
    own = ConfigDict(copy.deepcopy(dict(config)))
    with _scope(own.pop('_scope_', None)):
        try:
            return MODELS.build(own)
        except InputError:
            raise
        except Exception as error:  # of whatever the config asks for
            kind = own.get('type')
            raise InputError(f'model {kind}: cannot be built ({reason_of(error)})') from error


@contextmanager
def _scope(name: str | None) -> Iterator[None]:
    with DefaultScope.overwrite_default_scope(name):
        yield
