"""A head on a real decoder that tells each layer's boxes by bins, as D-FINE's does; mmdet has none."""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import DABDETRHead
from mmdet.models.dense_heads.gfl_head import Integral
from mmdet.registry import MODELS
from torch import Tensor, nn

LAST = 7


@MODELS.register_module(force=True)
class BinnedHead(DABDETRHead):
    """Distances of the four sides from the reference point, as chances of eight steps."""

    def _init_layers(self) -> None:
        super()._init_layers()
        self.sides = nn.Linear(self.embed_dims, 4 * (LAST + 1))
        self.integral = Integral(LAST)

    def forward(self, hidden_states: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        boxes = []
        for state, reference in zip(hidden_states, references):
            bins = self.sides(state)
            reach = self.integral(bins).view(*state.shape[:2], 4) / (2 * LAST)
            low, high = reference[..., :2] - reach[..., :2], reference[..., :2] + reach[..., 2:]
            boxes.append(torch.cat([(low + high) / 2, high - low], -1))
        return self.fc_cls(hidden_states), torch.stack(boxes)
