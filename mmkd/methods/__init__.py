"""One file for each method; what only one method uses lies beside it.

A method imports no other: what two share is arithmetic (losses), knowledge of models (family) or a
network (necks).
May import: files, losses, family, necks, core.
"""

from ..core.method import FeatureMethod, Method
from ..core.step import Side, Step
from .at import AT
from .bckd import BCKD
from .crd import CRD
from .cross_kd import CrossKD
from .cwd import CWD
from .detr import KDDETR
from .dist import DIST
from .dkd import DKD
from .dpk.method import DPK
from .fgd import FGD
from .fitnet import FitNet
from .frskd import FRSKD
from .go_lsd import GOLSD
from .kd import KD
from .ld import LD
from .mgd import MGD
from .ofd import OFD
from .pkd import PKD
from .ps_kd import PSKD
from .review_kd import ReviewKD
from .rkd import RKD
from .sfr import SFR
from .vfm import VFM

__all__ = [
    'AT',
    'BCKD',
    'CRD',
    'CWD',
    'DIST',
    'DKD',
    'DPK',
    'FGD',
    'FRSKD',
    'GOLSD',
    'KD',
    'KDDETR',
    'LD',
    'MGD',
    'OFD',
    'PKD',
    'PSKD',
    'RKD',
    'SFR',
    'VFM',
    'CrossKD',
    'FeatureMethod',
    'FitNet',
    'Method',
    'ReviewKD',
    'Side',
    'Step',
]
