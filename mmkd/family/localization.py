"""How the boxes of two dense heads compare: bin by bin where a side is a distribution, else by overlap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..collectives import mean_count
from ..losses.boxes import generalized_iou
from ..losses.kl import softmax_kl
from .heads import definer, head_kind, logit_head
from .logits import Levels, as_rows
from .taps import Tap

SIDES = 4


@dataclass(frozen=True)
class BoxDivergence:
    """How far a student's boxes are from a teacher's, at the same anchors or points.

    A head that tells each side's distance as a distribution over bins (GFL and its relatives):
    ``T^2 KL(softmax(t / T) || softmax(s / T))`` over the bins, the mean of the four sides. A head whose boxes
    a coder decodes from four numbers for each anchor or point: ``1 - GIoU`` of the decoded boxes.

    Either is weighted by row and divided by the sum of the weights, which is one over all ranks.

    Attributes:
        bins: of each side; 0 where there are none.
        priors: gives a map's anchors or points, where boxes are decoded.
        coder: decodes.
        temperature: T, of the bins.
        decoded: whether the head itself gives boxes (TOOD).
    """

    tap: ClassVar[Tap] = Tap('bbox_head', item=1)
    """Where a dense head's boxes pass."""

    bins: int = 0
    priors: Any = None
    coder: Any = None
    temperature: float = 1.0
    decoded: bool = False

    @classmethod
    def of(cls, model: nn.Module, temperature: float = 1.0) -> BoxDivergence | None:
        """Look at a model's head; None where its boxes do not compare."""
        if head_kind(model) != 'dense':
            return None
        head: Any = logit_head(model)
        if hasattr(head, 'integral') and hasattr(head, 'reg_max'):
            return cls(bins=int(head.reg_max) + 1, temperature=temperature)
        if _decodes_plainly(head):
            return cls(priors=head.prior_generator, coder=head.bbox_coder)
        if hasattr(head, 'deform_sampling'):
            return cls(decoded=True)
        return None

    def __call__(self, ours: Levels, theirs: Levels, weights: Tensor) -> Tensor:
        """The mean distance; ``weights`` [N] has one for each anchor or point, as the logits' rows are."""
        distances = self.distances(ours, theirs)
        return (weights * distances).sum() / mean_count(weights.sum())

    def distances(self, ours: Levels, theirs: Levels) -> Tensor:
        """The distance at each anchor or point: [N]."""
        if self.bins:
            return softmax_kl(self.sides(ours), self.sides(theirs), self.temperature).mean(-1)
        return self.gaps(ours, theirs)

    def gaps(self, ours: Levels, theirs: Levels) -> Tensor:
        """``1 - GIoU`` of the boxes at each anchor or point, those of bins included: [N]."""
        return 1 - generalized_iou(self._boxes(ours), self._boxes(theirs))

    def sides(self, levels: Levels) -> Tensor:
        """The bins of each side: [N, 4, bins]."""
        rows = torch.cat([as_rows(level.float(), SIDES * self.bins) for level in levels])
        return rows.unflatten(1, (SIDES, self.bins))

    def _boxes(self, levels: Levels) -> Tensor:
        """Decoded boxes: [N, 4]. One that is told in units of its stride is scaled about its point only."""
        if self.bins:  # about a point at 0, in units of the stride: overlaps stay what they are
            chances = self.sides(levels).softmax(-1)
            reach = chances @ torch.arange(self.bins, device=chances.device, dtype=chances.dtype)
            return torch.cat([-reach[:, :2], reach[:, 2:]], 1)
        if self.decoded:
            return torch.cat([as_rows(level.float(), SIDES) for level in levels])
        sizes = [level.shape[-2:] for level in levels]
        places = self.priors.grid_priors(sizes, device=levels[0].device)
        decoded = [
            self.coder.decode(at.repeat(len(level), 1), as_rows(level.float(), SIDES))
            for at, level in zip(places, levels)
        ]
        return torch.cat(decoded)


def _decodes_plainly(head: Any) -> bool:
    """Whether a head's boxes are its coder's reading of what it gives at the anchors or points.

    That is so where it predicts as mmdet's base of dense heads does; a head that goes its own way there
    (refined anchors, corners, point sets, boxes that its forward has decoded already) does so for a reason.
    """
    parts = ('predict_by_feat', '_predict_by_feat_single')
    plain = all(definer(head, part) == 'BaseDenseHead' for part in parts)
    return plain and all(hasattr(head, part) for part in ('bbox_coder', 'prior_generator'))
