"""The arithmetic that methods share: pure functions on tensors.

They know no models and keep nothing between calls; sums over the ranks of a training are the only thing
outside of their arguments that they see.
May import nothing but the modules of the top level.
"""

from .attention import attention_distance, attention_map, attention_turn
from .balance import balanced_mean
from .boxes import generalized_iou
from .cka import cka, hsic
from .contrast import noise_contrast
from .decoupled import decoupled_kl
from .focal_global import channel_attention, foreground_mask, spatial_attention
from .kl import binary_kl, channel_kl, softmax_kl, standardized
from .matching import match_queries
from .pearson import pearson_distance
from .quality import quality_focal
from .queries import query_distances
from .relations import relation_distances
from .smoothing import LabelLoss
from .transport import transport_loss

__all__ = [
    'LabelLoss',
    'attention_distance',
    'attention_map',
    'attention_turn',
    'balanced_mean',
    'binary_kl',
    'channel_attention',
    'channel_kl',
    'cka',
    'decoupled_kl',
    'foreground_mask',
    'generalized_iou',
    'hsic',
    'match_queries',
    'noise_contrast',
    'pearson_distance',
    'quality_focal',
    'query_distances',
    'relation_distances',
    'softmax_kl',
    'spatial_attention',
    'standardized',
    'transport_loss',
]
