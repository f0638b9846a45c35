"""DPK's transform: part of the teacher's map stands in the student's, and the whole is rebuilt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn

from ..errors import InputError, nearest, refuse_unknown
from ..registry import MODELS
from .adapters import resize

FEWEST_PRIOR_TOKENS = 4
"""The teacher supplies at least this many tokens (half of them, where the map has fewer than 8)."""


@dataclass(frozen=True)
class ViTSize:
    """Width, depth and heads of a stack of transformer blocks.

    >>> ViTSize.parse((256, 4, 8))
    ViTSize(width=256, depth=4, heads=8)
    """

    width: int
    depth: int
    heads: int = 8

    @classmethod
    def parse(cls, spec: Any, where: str = 'PriorInjection') -> ViTSize:
        """Read and check ``(width, depth, heads)``."""
        numbers = isinstance(spec, (list, tuple)) and all(type(n) is int for n in spec)
        if not isinstance(spec, cls) and not (numbers and len(spec) in (2, 3)):
            raise InputError(f'{where}={spec!r}; needed: (width, depth, heads), whole numbers')
        size = spec if isinstance(spec, cls) else cls(*spec)
        if size.width % 4 or size.width < 4 or size.depth < 1:
            raise InputError(
                f'{where}: width={size.width}, depth={size.depth}; needed: a width divisible by 4 '
                '(half of it encodes rows, half columns, by sine and cosine), a depth of 1 or more'
            )
        if size.heads < 1 or size.width % size.heads:
            fitting = [h for h in (1, 2, 4, 8, 16) if size.width % h == 0]
            raise InputError(
                f'{where}: heads={size.heads} do not divide the width {size.width}; fitting: {fitting}'
            )
        return size


@MODELS.register_module()
class PriorInjection(nn.Module):
    """Stitch two maps of one stage at random and rebuild the teacher's from the stitched sequence.

    Both maps are cut into patches. At ``ratio`` of the places the teacher's patch stands, at the
    others the student's. Each side is encoded by a transformer of its own over its own tokens only,
    projected by one shared matrix, put back in place, and a decoder over all tokens says what the
    teacher's whole map is.

    Positions are sine-cosine of row and column, so that any map size will do; a map that patches do
    not fill is padded with zeros, and the answer is cut back.

    Args:
        student_channels: channels of the student's map.
        teacher_channels: channels of the teacher's map.
        patch: height and width of a patch.
        encoder: width, depth, heads of both encoders.
        decoder: width, depth, heads of the decoder.

    >>> neck = PriorInjection(8, 16, patch=2, encoder=(32, 1, 4), decoder=(32, 1, 4))
    >>> neck(torch.zeros(2, 8, 7, 5), torch.zeros(2, 16, 7, 5), ratio=0.5).shape
    torch.Size([2, 16, 7, 5])
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        patch: int = 1,
        encoder: Any = (512, 6, 8),
        decoder: Any = (512, 4, 8),
    ) -> None:
        super().__init__()
        if patch < 1:
            raise InputError(f'PriorInjection: patch={patch}; needed: 1 or more')
        self.patch = patch
        inner, outer = ViTSize.parse(encoder), ViTSize.parse(decoder)
        self.student_embed = nn.Linear(student_channels * patch**2, inner.width)
        self.teacher_embed = nn.Linear(teacher_channels * patch**2, inner.width)
        self.student_encoder = vit(inner)
        self.teacher_encoder = vit(inner)
        self.project = nn.Linear(inner.width, outer.width, bias=False)
        self.decoder = vit(outer)
        self.predict = nn.Linear(outer.width, teacher_channels * patch**2)
        self.apply(_initialise)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        ratio: float,
        scores: Tensor | None = None,
        floor: bool = True,
    ) -> Tensor:
        """The teacher's map, rebuilt.

        Args:
            student: the student's map; resized to the teacher's height and width.
            teacher: the teacher's map; it gets no gradient.
            ratio: the share of tokens that the teacher supplies.
            scores: [B, N]: the teacher supplies the places of the lowest; by default random.
            floor: whether the teacher supplies a few tokens however small the ratio.
        """
        size = teacher.shape[-2:]
        grid = self.grid(size)
        if not self.stitches(size):
            raise InputError(
                f'the map {size[0]}x{size[1]} is a single token (patch={self.patch}), so that nothing can '
                'be stitched; larger images, a smaller patch, or a tap before the pooling'
            )
        ours = patchify(resize(student, size), self.patch)
        theirs = patchify(teacher.detach(), self.patch)
        if scores is None:
            scores = torch.rand(theirs.shape[:2], device=theirs.device)
        order = scores.argsort(1)
        theirs_at, ours_at = order.tensor_split([prior_tokens(ratio, order.shape[1], floor)], 1)
        hybrid = torch.cat(
            [
                self._encode(theirs, theirs_at, grid, self.teacher_embed, self.teacher_encoder),
                self._encode(ours, ours_at, grid, self.student_embed, self.student_encoder),
            ],
            1,
        )
        stitched = _take(self.project(hybrid), order.argsort(1))
        return self._decode(stitched, grid, size)

    def grid(self, size: tuple[int, int] | Size) -> tuple[int, int]:
        """Rows and columns of tokens of a map."""
        height, width = size
        return math.ceil(height / self.patch), math.ceil(width / self.patch)

    def stitches(self, size: tuple[int, int] | Size) -> bool:
        """Whether a map has two tokens at least, so that there is something to stitch."""
        return self.grid(size) != (1, 1)

    def alone(self, student: Tensor, size: tuple[int, int] | Size) -> Tensor:
        """The teacher's map, rebuilt from the student's tokens alone."""
        grid = self.grid(size)
        ours = patchify(resize(student, size), self.patch)
        places = torch.arange(ours.shape[1], device=ours.device).expand(ours.shape[:2])
        hybrid = self._encode(ours, places, grid, self.student_embed, self.student_encoder)
        return self._decode(self.project(hybrid), grid, size)

    def _decode(
        self, stitched: Tensor, grid: tuple[int, int], size: tuple[int, int] | Size
    ) -> Tensor:
        rebuilt = self.predict(self.decoder(stitched + positions(grid, stitched)))
        return unpatchify(rebuilt, self.patch, size)

    def _encode(
        self,
        tokens: Tensor,
        places: Tensor,
        grid: tuple[int, int],
        embed: nn.Linear,
        encoder: nn.Module,
    ) -> Tensor:
        """Only the tokens at some places, embedded, with their positions, through their encoder."""
        kept = embed(_take(tokens, places))
        table = positions(grid, kept).expand(len(kept), -1, -1)
        return encoder(kept + _take(table, places))


def vit(size: ViTSize) -> nn.Module:
    """Pre-norm transformer blocks and a last LayerNorm.

    >>> vit(ViTSize(8, 2, 2))(torch.zeros(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """
    layer = nn.TransformerEncoderLayer(
        size.width,
        size.heads,
        dim_feedforward=4 * size.width,
        dropout=0.0,
        activation='gelu',
        layer_norm_eps=1e-6,
        batch_first=True,
        norm_first=True,
    )
    norm = nn.LayerNorm(size.width, eps=1e-6)
    return nn.TransformerEncoder(layer, size.depth, norm, enable_nested_tensor=False)


def prior_tokens(ratio: float, tokens: int, floor: bool = True) -> int:
    """How many of the tokens are the teacher's: ``floor(ratio N)``, within bounds if ``floor``.

    With ``floor`` at least four, or half where there are fewer than eight, and never all of them.

    >>> [prior_tokens(ratio, 49) for ratio in (0.0, 0.5, 1.0)]
    [4, 24, 48]
    >>> prior_tokens(0.3, 4), prior_tokens(0.0, 49, floor=False)
    (2, 0)
    """
    wanted = math.floor(ratio * tokens + 1e-9)
    if not floor:
        return wanted
    return min(max(wanted, min(FEWEST_PRIOR_TOKENS, tokens // 2)), tokens - 1)


def patchify(maps: Tensor, patch: int) -> Tensor:
    """Maps [B, C, H, W] as patches [B, N, C patch^2], row by row; padded with zeros to fill them.

    >>> patchify(torch.zeros(1, 3, 5, 4), 2).shape
    torch.Size([1, 6, 12])
    """
    height, width = maps.shape[-2:]
    maps = F.pad(maps, (0, -width % patch, 0, -height % patch))
    if patch == 1:
        return maps.flatten(2).transpose(1, 2)
    return F.pixel_unshuffle(maps, patch).flatten(2).transpose(1, 2)


def unpatchify(patches: Tensor, patch: int, size: tuple[int, int] | Size) -> Tensor:
    """The maps of a size that patches are of; the inverse of :func:`patchify`.

    >>> maps = torch.arange(40.0).view(1, 2, 5, 4)
    >>> bool((unpatchify(patchify(maps, 2), 2, (5, 4)) == maps).all())
    True
    """
    height, width = size
    grid = math.ceil(height / patch), math.ceil(width / patch)
    maps = F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, grid), patch)
    return maps[..., :height, :width]


def positions(grid: tuple[int, int], like: Tensor) -> Tensor:
    """Sine-cosine positions [1, N, D] of a grid, row by row: half of D for rows, half for columns.

    >>> positions((2, 3), torch.zeros(1, 6, 8)).shape
    torch.Size([1, 6, 8])
    """
    quarter = like.shape[-1] // 4
    powers = torch.arange(quarter, dtype=torch.float32, device=like.device) / quarter
    rates = 10000.0**-powers
    rows, columns = (torch.arange(n, device=like.device)[:, None] * rates for n in grid)
    rows, columns = (torch.cat([angles.sin(), angles.cos()], 1) for angles in (rows, columns))
    table = torch.cat([rows.repeat_interleave(grid[1], 0), columns.repeat(grid[0], 1)], 1)
    return table.to(like.dtype)[None]


FULL_WIDTH, LIGHT_WIDTH = 1024, 128


def full_size(channels: int, patch: int) -> dict[str, Any]:
    """The rule for pairs without a published size, near the published ones.

    The decoder is as wide as a patch's side holds channels, 1024 at most; the encoder as well, or
    half of it where patches are larger than 1 or the decoder is wider than 512; depth 4.

    >>> full_size(channels=256, patch=4)
    {'encoder': (512, 4, 8), 'decoder': (1024, 4, 8)}
    """
    outer = _rounded(min(channels * patch, FULL_WIDTH))
    inner = outer if patch == 1 and outer <= 512 else _rounded(outer // 2)
    return {'encoder': (inner, 4, _heads(inner)), 'decoder': (outer, 4, _heads(outer))}


def light_size(channels: int, patch: int) -> dict[str, Any]:
    """Sizes of bounded cost: width 128 at most, one block in each stack.

    >>> light_size(channels=2048, patch=1)
    {'encoder': (128, 1, 4), 'decoder': (128, 1, 4)}
    >>> light_size(channels=32, patch=1)['encoder']
    (32, 1, 2)
    """
    width = _rounded(min(channels * patch, LIGHT_WIDTH))
    size = (width, 1, _heads(width, 4))
    return {'encoder': size, 'decoder': size}


def _published(*stages: tuple[tuple[int, ...], tuple[int, ...]]) -> list[dict[str, Any]]:
    return [{'encoder': encoder, 'decoder': decoder} for encoder, decoder in stages]


PRESETS: Mapping[str, list[dict[str, Any]]] = {
    'r34_r18': _published(((256, 6, 8), (256, 4, 8)), ((512, 6, 8), (512, 4, 8))),
    'r50_r18': _published(((512, 4, 8), (1024, 4, 8)), ((640, 6, 8), (1024, 4, 8))),
    'r101_r18': _published(((512, 4, 8), (1024, 4, 16)), ((640, 6, 8), (1024, 4, 16))),
    'r152_r18': _published(((512, 6, 8), (1024, 4, 16)), ((640, 6, 8), (1024, 4, 16))),
    'r50_mobilenetv1': _published(((512, 4, 8), (640, 4, 8)), ((640, 4, 8), (1536, 4, 16))),
    'faster_rcnn': _published(((512, 4, 8), (1024, 4, 8)), ((256, 4, 8), (512, 4, 8))),
    'retinanet': _published(
        ((512, 4, 8), (1024, 4, 8)),
        ((256, 4, 8), (512, 4, 8)),
        ((256, 4, 8), (256, 4, 8)),
        ((256, 4, 8), (256, 4, 8)),
    ),
    'resnet32x4_resnet8x4': _published(((160, 6, 4), (128, 4, 4)), ((180, 6, 4), (256, 4, 4))),
    'resnet56_resnet20': _published(((64, 6, 4), (48, 6, 4)), ((128, 6, 4), (80, 4, 4))),
    'wrn40_2_wrn16_2': _published(((128, 6, 4), (128, 4, 4)), ((256, 6, 4), (256, 4, 4))),
    'resnet110_resnet32': _published(((64, 6, 4), (64, 6, 4)), ((128, 6, 4), (128, 4, 4))),
    'vgg13_vgg8': _published(((160, 6, 4), (256, 6, 4)), ((320, 6, 4), (512, 4, 4))),
}
"""The authors' sizes for their pairs, shallow stage first."""

RULES = {'full': full_size, 'light': light_size}
"""Sizes for any pair, by channels and patch."""


def sizes_of(size: Any, channels: list[int], patches: list[int]) -> list[dict[str, Any]]:
    """Encoder and decoder of every stage, shallow first.

    Args:
        size: ``'full'``, ``'light'``, a name in ``PRESETS``, or a list of
            ``dict(encoder=(width, depth, heads), decoder=(...))``.
        channels: the teacher's, stage by stage.
        patches: stage by stage.

    >>> sizes_of('light', [64], [1])
    [{'encoder': (64, 1, 4), 'decoder': (64, 1, 4)}]
    """
    rule = read_size(size)
    if callable(rule):
        return [rule(c, p) for c, p in zip(channels, patches)]
    if len(rule) != len(channels):
        raise InputError(
            f'size={size!r} is for {len(rule)} stages, there are {len(channels)}; choose as many '
            "taps (tap=dict(at=..., levels=[...])), or size='full'"
        )
    return rule


def read_size(size: Any) -> Callable[[int, int], dict[str, Any]] | list[dict[str, Any]]:
    """What a size stands for: a rule for channels and patch, or the sizes of the stages.

    >>> read_size([dict(encoder=(8, 1, 2), decoder=(8, 1, 2))])[0]['encoder']
    (8, 1, 2)
    """
    if isinstance(size, str):
        found = RULES.get(size) or PRESETS.get(size)
        if found is None:
            raise InputError(nearest(size, [*RULES, *PRESETS]))
        return found
    listed = isinstance(size, (list, tuple)) and len(size) > 0
    if not (listed and all(isinstance(s, Mapping) for s in size)):
        raise InputError(
            "needed: 'full', 'light', a published pair's name, or a list of "
            'dict(encoder=(width, depth, heads), decoder=(width, depth, heads))'
        )
    for stage in size:
        refuse_unknown('size', stage, ('encoder', 'decoder'))
        for side, spec in stage.items():
            ViTSize.parse(spec, f'size: {side}')
    return list(size)


def _take(tokens: Tensor, places: Tensor) -> Tensor:
    """The tokens [B, N, D] at the places [B, K] of each image."""
    return tokens.gather(1, places[:, :, None].expand(-1, -1, tokens.shape[2]))


def _rounded(width: int) -> int:
    return max(width // 32 * 32, 32)


def _heads(width: int, most: int = 8) -> int:
    """As many as are 16 wide at least: narrower ones take most of a transform's time."""
    return max(h for h in (1, 2, 4, 8) if h <= most and width % h == 0 and width >= 16 * h)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.MultiheadAttention):
        nn.init.xavier_uniform_(module.in_proj_weight)
        nn.init.zeros_(module.in_proj_bias)
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
