"""Learnable feature transforms that methods use."""

from .adapters import Adapter
from .bifpn import BiFPN
from .focal_global import FocalGlobal, FocalGlobalLevels, GlobalContext
from .prior_injection import PriorInjection

__all__ = [
    'Adapter',
    'BiFPN',
    'FocalGlobal',
    'FocalGlobalLevels',
    'GlobalContext',
    'PriorInjection',
]
