"""Teachers from Hugging Face transformers: ``hf::NAME`` or ``hf::FOLDER``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError, reason_of
from ..registry import MODELS
from .outside import Levels, OutsideBackbone, folded, package, scaled, square


class HFLevels(Levels):
    """A network of transformers; its levels are the maps that it gives, else its hidden states, folded."""

    def maps(self, images: Tensor) -> list[Tensor]:
        """The first level is what precedes the first block; the last the network's own output, normed."""
        taken = inspect.signature(self.net.forward).parameters
        any_size = {name: True for name in ('interpolate_pos_encoding',) if name in taken}
        output: Any = self.net(images, **any_size)
        maps = getattr(output, 'feature_maps', None)
        if maps is None:
            states = self._states(output)
            maps = [self._map(state, images.shape[-2:]) for state in states]
        return [maps[i] for i in range(len(maps)) if self.indices is None or i in self.indices]

    def _states(self, output: Any) -> list[Tensor]:
        states = getattr(output, 'reshaped_hidden_states', None)
        if states is not None:
            return list(states)
        *states, last = output.hidden_states
        own = output.last_hidden_state
        return [*states, own if own.shape == last.shape else last]

    def _map(self, state: Tensor, image: Sequence[int]) -> Tensor:
        return state if state.dim() == 4 else folded(state, image, self.patch or 1)


@MODELS.register_module()
class HFBackbone(OutsideBackbone):
    """A network of transformers as a teacher, normalised as its image processor says.

    Code that comes with a model is not run. Of a model of images and texts the images' part is taken.

    Args:
        model: a folder, or a name of the hub; nothing is fetched that the package has in its cache.
        out_indices: which levels to give; 0 is what precedes the first block or stage, 1 what follows it. By
            default the deepest of each size.
        mean: in place of the processor's, for pixels of 0 to 255 in the order red, green, blue.
        std: likewise.

    >>> mmkd.Teacher('hf::facebook/dinov2-small').model.label  # doctest: +SKIP
    'hf facebook/dinov2-small'
    """

    optional = ('pooler', 'hidden_states_norms')

    def __init__(
        self,
        model: str,
        out_indices: Sequence[int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self.name = str(Path(model).expanduser()) if _is_folder(model) else model
        transformers = package('hf')
        config = self._read(lambda: _config(transformers, self.name))
        self.kind = _kind(transformers, config)
        net = self._read(lambda: self.kind.from_config(config, trust_remote_code=False))
        patch = getattr(config, 'patch_size', None)
        levels = HFLevels(
            net,
            native=square(getattr(config, 'image_size', None) or 224),
            patch=None if patch is None else square(patch)[0],
            indices=out_indices,
        )
        super().__init__(levels, *self._pixels(transformers, mean, std))
        self.label = f'hf {model}'

    def load_own(self) -> list[str]:
        """The weights in the folder or on the hub."""
        config = self.backbone.net.config
        options = dict(config=config, output_loading_info=True, trust_remote_code=False)
        net, report = self._read(lambda: self.kind.from_pretrained(self.name, **options))
        self.backbone.net = net.eval()
        return list(report['missing_keys'])

    def translated(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the network itself, whatever head it was trained with."""
        prefix = f'{getattr(self.backbone.net, "base_model_prefix", "")}.'
        names = ('backbone.net.', prefix) if prefix != '.' else ('backbone.net.',)
        plain = dict(weights)
        for name in names:
            plain = {key.removeprefix(name): value for key, value in plain.items()}
        return self._named(plain) or self._named(weights)

    def _pixels(self, transformers: Any, mean: Any, std: Any) -> tuple[Any, Any]:
        """Mean and deviation: those that are given, else the processor's."""
        if mean is not None and std is not None:
            return mean, std
        reader = transformers.image_processing_utils.BaseImageProcessor.get_image_processor_dict
        said, _ = self._read(lambda: reader(self.name), 'needed: mean=[...] and std=[...] besides')
        factor = 1 / said.get('rescale_factor', 1 / 255) if said.get('do_rescale', True) else 1.0
        if not said.get('do_normalize', True):
            return scaled(0.0, factor), scaled(1.0, factor)
        return scaled(said['image_mean'], factor), scaled(said['image_std'], factor)

    def _read(
        self, step: Any, cure: str = 'needed: a folder with config.json, or a name of the hub'
    ) -> Any:
        """Let the package read; whatever goes wrong becomes one message."""
        try:
            return step()
        except Exception as error:  # of any kind: files, network, code
            raise InputError(
                f'teacher hf::{self.name}: cannot be read ({reason_of(error)}); {cure}'
            ) from error


def _is_folder(model: str) -> bool:
    return Path(model).expanduser().is_dir()


def _config(transformers: Any, name: str) -> Any:
    config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    return getattr(config, 'vision_config', config)


def _kind(transformers: Any, config: Any) -> Any:
    """The class that builds it: the package's backbones give maps, all other models hidden states."""
    backbone = transformers.AutoBackbone
    if type(config) not in backbone._model_mapping:
        config.output_hidden_states = True
        return transformers.AutoModel
    config.out_indices = list(range(len(config.stage_names)))
    return backbone
