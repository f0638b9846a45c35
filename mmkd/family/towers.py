"""Towers of a dense head: convolutions that a map passes one after the other on its way to the predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import InputError
from .heads import logit_head
from .taps import Tap

ORDER = ('conv', 'norm', 'act')


@dataclass(frozen=True)
class Tower:
    """Names of convolutions, in order; all levels pass through them, or one level where each has its own."""

    names: tuple[str, ...]

    def place(self, last: int) -> int:
        """Which convolution is the last but ``last``; the first at least."""
        return max(len(self.names) - 1 - last, 0)

    def before_activation(self, model: nn.Module, place: int) -> Tap:
        """Where a convolution's output passes before it is activated."""
        conv: Any = model.get_submodule(self.names[place])
        return Tap(f'{self.names[place]}.{conv.norm_name if conv.with_norm else "conv"}')


def towers_of(model: nn.Module) -> list[Tower]:
    """The towers of a dense head, found by structure: lists of mmcv's ConvModules that fit one another.

    >>> from mmkd.family.building import build_model, load_config, model_config
    >>> config = model_config(load_config('mmdet::gfl/gfl_r50_fpn_1x_coco.py'))
    >>> [tower.names[3] for tower in towers_of(build_model(config))]
    ['bbox_head.cls_convs.3', 'bbox_head.reg_convs.3']
    """
    found: dict[nn.Module, Tower] = {}
    for name, module in _lists('bbox_head', logit_head(model)):
        # by its first name: in RTMDet-Ins classes and boxes have one tower, which maps pass twice
        if _is_tower(list(module)) and module[0] not in found:
            names = tuple(f'{name}.{index}' for index in range(len(module)))
            found[module[0]] = Tower(names)
    return list(found.values())


def refuse_without_towers(method: str, model: nn.Module, owner: str) -> list[Tower]:
    """A model's towers; one that has none is answered."""
    towers = towers_of(model)
    if not towers:
        raise InputError(
            f'{method}: {type(logit_head(model)).__name__} of {owner} has no tower of convolutions through '
            'which a map could pass on; bckd, kd, pkd and cwd do without'
        )
    return towers


@contextmanager
def answering(model: nn.Module, answers: Mapping[str, Sequence[Tensor]]) -> Iterator[None]:
    """While it is open, some modules give what they are told, call by call, whatever they are given.

    >>> import torch
    >>> net = nn.Sequential(nn.ReLU())
    >>> with answering(net, {'0': [torch.tensor(3.0)]}):
    ...     print(net(torch.tensor(-1.0)))
    tensor(3.)
    """
    modules: dict[str, Any] = {name: model.get_submodule(name) for name in answers}
    own = {name: vars(module).get('forward') for name, module in modules.items()}
    for name, module in modules.items():
        module.forward = _teller(answers[name])
    try:
        yield
    finally:
        for name, module in modules.items():
            del module.forward
            if own[name] is not None:
                module.forward = own[name]


def _lists(name: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The lists of a module and those inside of them; not those of other parts (a mask head)."""
    for own, child in module.named_children():
        if isinstance(child, (nn.ModuleList, nn.Sequential)):
            yield f'{name}.{own}', child
            yield from _lists(f'{name}.{own}', child)


def _teller(values: Sequence[Tensor]) -> Any:
    left = iter(values)
    return lambda *args, **kwargs: next(left)


def _is_tower(convs: Sequence[Any]) -> bool:
    kinds = all(type(conv).__name__ == 'ConvModule' for conv in convs)
    if not convs or not kinds or any(conv.order != ORDER for conv in convs):
        return False
    sizes = [(conv.in_channels, conv.out_channels) for conv in convs]
    return all(given == taken for (_, given), (taken, _) in zip(sizes, sizes[1:]))
