"""Learnable feature transforms that methods use."""

from .adapters import Adapter

__all__ = ['Adapter']
