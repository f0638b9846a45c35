"""One file for each method."""

from .at import AT
from .base import FeatureMethod, Method, Side, Step
from .cwd import CWD
from .dpk import DPK
from .fgd import FGD
from .fitnet import FitNet
from .kd import KD
from .pkd import PKD

__all__ = [
    'AT',
    'CWD',
    'DPK',
    'FGD',
    'KD',
    'PKD',
    'FeatureMethod',
    'FitNet',
    'Method',
    'Side',
    'Step',
]
