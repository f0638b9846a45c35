"""Networks that are trained with a method and gone at inference.

Adapters, DPK's prior injection, ReviewKD's fusion, FGD's terms with their relation blocks, the BiFPN and
the self-teachers on it; CRD's memories.
May import: losses, family.
"""

from .adapters import Adapter
from .bifpn import BiFPN
from .focal_global import FocalGlobal, FocalGlobalLevels, GlobalContext
from .memory import MemoryBank
from .prior_injection import PriorInjection
from .reviewing import Reviewer

__all__ = [
    'Adapter',
    'BiFPN',
    'FocalGlobal',
    'FocalGlobalLevels',
    'GlobalContext',
    'MemoryBank',
    'PriorInjection',
    'Reviewer',
]
