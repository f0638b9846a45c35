"""mmkd: knowledge distillation for the OpenMMLab toolboxes.

Importing registers everything in scope ``mmkd``, and from then on no checkpoint that the process loads can
execute code (:mod:`mmkd.files.safety`).

>>> import mmkd
>>> cfg = mmkd.distill('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', 'pkd',
...                    teacher='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py')
>>> cfg.model.type, cfg.model.methods.pkd.type
('mmkd.Distiller', 'mmkd.PKD')
"""

from . import compat

compat.prepare()

from .files.safety import protect, trusting  # noqa: E402

protect()  # before anything is built or loaded, whichever way mmkd is used

from . import backbones  # noqa: E402
from .config.conversion import distill  # noqa: E402
from .core.distiller import Distiller, build_distiller  # noqa: E402
from .core.engine import Distillation  # noqa: E402
from .core.method import FeatureMethod, Method  # noqa: E402
from .core.step import Side, Step  # noqa: E402
from .core.teacher import Teacher  # noqa: E402
from .errors import InputError  # noqa: E402
from .family.hf_backbone import HFBackbone  # noqa: E402
from .family.taps import Tap  # noqa: E402
from .family.timm_backbone import TimmBackbone  # noqa: E402
from .methods import AT, CWD, KD, PKD, FitNet  # noqa: E402
from .necks import Adapter  # noqa: E402
from .training import CpuAmpOptimWrapper, DistillationHook, FastHook, FullyShard  # noqa: E402
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
    'FastHook',
    'FeatureMethod',
    'FitNet',
    'FullyShard',
    'HFBackbone',
    'InputError',
    'Method',
    'Side',
    'Step',
    'Tap',
    'Teacher',
    'TimmBackbone',
    '__version__',
    'backbones',
    'build_distiller',
    'distill',
    'trusting',
]
