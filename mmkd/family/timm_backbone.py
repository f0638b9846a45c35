"""Teachers from timm: ``timm::NAME``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, nearest, reason_of
from ..registry import MODELS
from .outside import Levels, OutsideBackbone, package, scaled, square

ANY_SIZE = {'dynamic_img_size': True, 'strict_img_size': False}
"""Options with which timm's transformers take images of any size; each has some of them."""


class TimmLevels(Levels):
    """A network of timm; its levels are those of ``forward_intermediates``."""

    def __init__(self, net: nn.Module, norm: bool, **options: Any) -> None:
        self.norm = norm  # the first forward is run while the base class is built
        try:
            super().__init__(net, **options)
        except InputError:
            if not norm:
                raise
            self.norm = False  # some have no norm that fits all levels, and say so
            super().__init__(net, **options)

    def maps(self, images: Tensor) -> list[Tensor]:
        """As timm folds them: class and register tokens are left out."""
        return self.net.forward_intermediates(  # type: ignore[operator]
            images,
            indices=self.indices,
            norm=self.norm,
            stop_early=True,
            output_fmt='NCHW',
            intermediates_only=True,
        )


@MODELS.register_module()
class TimmBackbone(OutsideBackbone):
    """A network of timm as a teacher, normalised as its data config says.

    Args:
        model: its name in timm, or a name that timm reads: ``hf-hub:...``, ``local-dir:...``.
        out_indices: which levels to give: blocks of a ViT, stages of others; by default the deepest of
            each size.
        norm: whether a transformer's last norm is put on every level.

    >>> mmkd.Teacher('timm::resnet18', 'untrained').model.label  # doctest: +SKIP
    'timm resnet18'
    """

    def __init__(
        self, model: str, out_indices: Sequence[int] | None = None, norm: bool = True
    ) -> None:
        self.name = model
        timm = package('timm')
        _refuse_unknown(timm, model)
        self.options = _options(timm, model)
        net = self._created(pretrained=False)
        data = timm.data.resolve_model_data_config(net)
        ratio = getattr(getattr(net, 'patch_embed', None), 'feat_ratio', None)
        levels = TimmLevels(
            net,
            norm,
            native=square(data['input_size']),
            patch=None if ratio is None else square(ratio())[0],
            indices=out_indices,
        )
        super().__init__(levels, scaled(data['mean'], 255.0), scaled(data['std'], 255.0))
        self.label = f'timm {model}'

    def load_own(self) -> list[str]:
        """timm's own weights, from its cache or from the network."""
        try:
            self.backbone.net = self._created(pretrained=True).eval()
        except Exception as error:
            raise InputError(
                f'teacher timm::{self.name}: its weights cannot be fetched ({reason_of(error)}); give a file '
                f'of them (--teacher-checkpoint FILE)'
            ) from error
        return []

    def translated(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What timm makes of the file of such a network: position embeddings in its size, old names renamed."""
        net: Any = self.backbone.net
        convert = getattr(sys.modules[type(net).__module__], 'checkpoint_filter_fn', None)
        plain = {name.removeprefix('backbone.net.'): value for name, value in weights.items()}
        return self._named(convert(plain, net) if convert else plain)

    def _created(self, pretrained: bool) -> nn.Module:
        return _create(package('timm'), self.name, pretrained=pretrained, **self.options)


def _create(timm: Any, name: str, **options: Any) -> nn.Module:
    return timm.create_model(name, num_classes=0, **options)


def _options(timm: Any, name: str) -> dict[str, bool]:
    """With which options a network takes images of any size; found on networks without memory."""
    found = {}
    for option, value in ANY_SIZE.items():
        try:
            with torch.device('meta'):
                _create(timm, name, **{option: value})
            found[option] = value
        except Exception:  # this network has no such option
            continue
    return found


def _refuse_unknown(timm: Any, name: str) -> None:
    plain = name.partition('.')[0]
    if ':' not in name and not timm.is_model(plain):
        raise InputError(
            f'teacher timm::{name}: timm {timm.__version__} has no such model; '
            f'{nearest(plain, timm.list_models())}'
        )
