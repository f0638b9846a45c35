"""One file for each method."""

from .at import AT
from .base import FeatureMethod, Method, Side, Step
from .cwd import CWD
from .dpk import DPK
from .fgd import FGD
from .fitnet import FitNet
from .frskd import FRSKD
from .kd import KD
from .pkd import PKD
from .sfr import SFR

__all__ = [
    'AT',
    'CWD',
    'DPK',
    'FGD',
    'FRSKD',
    'KD',
    'PKD',
    'SFR',
    'FeatureMethod',
    'FitNet',
    'Method',
    'Side',
    'Step',
]
