"""mmkd: knowledge distillation for the OpenMMLab toolboxes.

Importing registers everything in scope ``mmkd``.

>>> import mmkd
>>> cfg = mmkd.distill('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', 'pkd',
...                    teacher='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py')
>>> cfg.model.type, cfg.model.methods.pkd.type
('mmkd.Distiller', 'mmkd.PKD')
"""

from . import compat

compat.prepare()

from . import backbones  # noqa: E402
from .amp import CpuAmpOptimWrapper  # noqa: E402
from .distill import distill  # noqa: E402
from .distillation import Distillation  # noqa: E402
from .distiller import Distiller, build_distiller  # noqa: E402
from .errors import InputError  # noqa: E402
from .hooks import DistillationHook  # noqa: E402
from .methods import AT, CWD, KD, PKD, FeatureMethod, FitNet, Method, Side, Step  # noqa: E402
from .necks import Adapter  # noqa: E402
from .sharding import FullyShard  # noqa: E402
from .taps import Tap  # noqa: E402
from .teacher import Teacher  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = [
    'AT',
    'CWD',
    'KD',
    'PKD',
    'Adapter',
    'CpuAmpOptimWrapper',
    'Distillation',
    'DistillationHook',
    'Distiller',
    'FeatureMethod',
    'FitNet',
    'FullyShard',
    'InputError',
    'Method',
    'Side',
    'Step',
    'Tap',
    'Teacher',
    '__version__',
    'backbones',
    'build_distiller',
    'distill',
]
