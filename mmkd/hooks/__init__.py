"""What must happen around training."""

from .distillation_hook import DistillationHook

__all__ = ['DistillationHook']
