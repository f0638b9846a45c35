"""Pure functions on tensors: the arithmetic that methods share."""

from .attention import attention_distance, attention_map
from .kl import binary_kl, channel_kl, softmax_kl
from .matching import match_queries
from .pearson import pearson_distance

__all__ = [
    'attention_distance',
    'attention_map',
    'binary_kl',
    'channel_kl',
    'match_queries',
    'pearson_distance',
    'softmax_kl',
]
