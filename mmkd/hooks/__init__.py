"""What must happen around training."""

from .distillation_hook import DistillationHook
from .resume_hook import ResumeHook
from .sharding_hook import ShardingHook

__all__ = ['DistillationHook', 'ResumeHook', 'ShardingHook']
