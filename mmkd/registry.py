"""Registries of mmkd: children of mmengine's roots, scope ``mmkd``.

>>> from mmengine.registry import MODELS as ROOT
>>> ROOT.get('mmkd.PKD').__name__
'PKD'
"""

from mmengine import registry as root
from mmengine.registry import Registry

MODELS = Registry('model', parent=root.MODELS, scope='mmkd', locations=['mmkd'])
"""Distillers, methods, necks and backbones."""

DATASETS = Registry('dataset', parent=root.DATASETS, scope='mmkd', locations=['mmkd'])
"""Data."""

HOOKS = Registry('hook', parent=root.HOOKS, scope='mmkd', locations=['mmkd'])
"""What happens around training."""

MODEL_WRAPPERS = Registry(
    'model_wrapper', parent=root.MODEL_WRAPPERS, scope='mmkd', locations=['mmkd']
)
"""How a model is spread over ranks."""

OPTIM_WRAPPERS = Registry(
    'optim_wrapper', parent=root.OPTIM_WRAPPERS, scope='mmkd', locations=['mmkd']
)
"""How parameters are updated."""

SCHEDULES = Registry('task util', parent=root.TASK_UTILS, scope='mmkd', locations=['mmkd'])
"""Weights over training progress."""
