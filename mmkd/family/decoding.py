"""Queries of a detection transformer, and its decoder run once more with other ones."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .taps import Features, Tap

Queries = Mapping[str, Tensor]
"""What a decoder is given of queries: those of POINTS that it takes."""

POINTS = ('query', 'query_pos', 'reference_points')
"""What says which queries there are: contents, positions in the network's terms, and in the image's."""
MEMORY = {
    'value': 'memory',
    'key': 'memory',
    'key_pos': 'memory_pos',
    'key_padding_mask': 'memory_mask',
}
"""What a decoder calls that which its model has under another name."""
SHARED = ('spatial_shapes', 'level_start_index', 'valid_ratios')
LEFT_OUT = ('dn_mask', 'kwargs')
HEAD = {'hidden_states', 'references'}
EDGE = 0.01
"""So near to the border of the image, and so small, no random point is."""


def point_taps() -> list[Tap]:
    """Where queries pass into a decoder; all are one place."""
    return [Tap('decoder', item=name, source='call') for name in POINTS]


def refuse_other_decoders(method: str, model: Any, owner: str) -> None:
    """Stop if a model's decoder cannot be run once more with queries of others."""
    known = {*POINTS, *MEMORY.values(), *SHARED, *LEFT_OUT}
    needs = {
        *(set(_parameters(getattr(model, 'forward_decoder', None))) - known),
        *(set(_parameters(model.bbox_head.forward)) - HEAD),
        # DDQ: its decoder leaves out queries by what its encoder has noted of them
        *({'cache_dict'} if hasattr(getattr(model, 'decoder', None), 'cache_dict') else ()),
    }
    if not isinstance(getattr(model, 'decoder', None), nn.Module) or needs:
        words = f'needs {", ".join(sorted(needs))} besides' if needs else 'has none'
        raise InputError(
            f'{method} runs the decoder once more with queries of its own, and {type(model).__name__} of '
            f'{owner} {words}; for every transformer: kd, pkd, cwd'
        )


def own_queries(features: Features) -> Queries:
    """The queries with which a model has run, in single precision."""
    found = {tap.item: features[tap] for tap in point_taps()}
    return {str(name): tensors[-1].float() for name, tensors in found.items() if tensors}


def random_queries(own: Queries, chances: Tensor) -> Queries:
    """As many others: at points drawn from the image, with the contents of a model's own in turn.

    Where a decoder takes no points (DETR) their embeddings are drawn, normal with mean and spread of
    the model's own, number by number.

    Args:
        own: the queries of the model.
        chances: uniform numbers [B, N, D], D at least as many as a point has.
    """
    count = chances.shape[1]
    turns = torch.arange(count, device=chances.device) % own['query'].shape[1]
    found = {name: tensor[:, turns] for name, tensor in own.items()}
    chances = EDGE + (1 - 2 * EDGE) * chances
    name = 'reference_points' if 'reference_points' in own else 'query_pos'
    width = own[name].shape[-1]
    if name == 'reference_points':
        found[name] = chances[..., :width]
    elif width <= 4:  # of a DAB-DETR a point before its sigmoid
        found[name] = chances[..., :width].logit()
    else:
        spread, mean = torch.std_mean(own[name], 1, keepdim=True)
        found[name] = mean + spread * torch.special.ndtri(chances[..., :width])
    return found


def numbers_of(own: Queries) -> int:
    """How many uniform numbers :func:`random_queries` takes for a query."""
    return own['reference_points' if 'reference_points' in own else 'query_pos'].shape[-1]


def decode(model: Any, features: Features, queries: Queries) -> tuple[Tensor, Tensor]:
    """Class logits [L, B, Q, C] and boxes [L, B, Q, 4] of all decoder layers for other queries.

    Args:
        model: the model.
        features: what passed at :func:`point_taps` when it ran.
        queries: the queries.
    """
    given: Mapping[str, Any] = features.calls(point_taps()[0])[-1]
    inputs = {MEMORY.get(name, name): _single(value) for name, value in given.items()}
    taken = _parameters(model.forward_decoder)
    states = model.forward_decoder(**{k: v for k, v in {**inputs, **queries}.items() if k in taken})
    wanted = _parameters(model.bbox_head.forward)
    return model.bbox_head(**{k: v for k, v in states.items() if k in wanted})


def _single(value: Any) -> Any:
    is_real = isinstance(value, Tensor) and value.is_floating_point()
    return value.float() if is_real else value


def _parameters(function: Any) -> list[str]:
    return [] if function is None else [*inspect.signature(function).parameters]
