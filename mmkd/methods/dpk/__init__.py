"""Dynamic prior knowledge: the method, and the ratios at which the teacher is injected."""

from .method import DPK

__all__ = ['DPK']
