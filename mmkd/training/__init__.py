"""What must hold around training, whatever is distilled: nothing here changes a healthy step's losses.

Optimisers of the methods, resuming exactly, random states, shards, processes and number formats, and
answers to data and disks that fail on the way.
May import: datasets, files, family, core.
"""

from .cpu_amp import CpuAmpOptimWrapper
from .fast import FastHook
from .method_optimizers import DistillationHook
from .resume import ResumeHook
from .score_weights import WeighByScore
from .sharding import FullyShard, ShardingHook

__all__ = [
    'CpuAmpOptimWrapper',
    'DistillationHook',
    'FastHook',
    'FullyShard',
    'ResumeHook',
    'ShardingHook',
    'WeighByScore',
]
