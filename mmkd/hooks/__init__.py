"""What must happen around training."""

from .distillation_hook import DistillationHook
from .resume_hook import ResumeHook

__all__ = ['DistillationHook', 'ResumeHook']
