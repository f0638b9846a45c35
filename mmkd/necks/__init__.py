"""Learnable feature transforms that methods use."""

from .adapters import Adapter
from .focal_global import FocalGlobal, FocalGlobalLevels, GlobalContext
from .prior_injection import PriorInjection

__all__ = ['Adapter', 'FocalGlobal', 'FocalGlobalLevels', 'GlobalContext', 'PriorInjection']
