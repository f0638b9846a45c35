"""Weights of others in our models, for the studies: the CIFAR-10 ResNets of 20 to 56 layers.

    python benchmarks/accuracy/import_weights.py cifar cifar10_resnet20.th work_dirs/accuracy/resnet20.pth

Their shortcuts are zero-padded copies of every second position; ours are 1x1 convolutions with a norm,
which here copy: the same function. Their images are normalised with ImageNet's mean and deviation, see
``configs/cifar10_resnet20_pretrained.py``; ``tools/test.py`` with it shows the accuracy.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

from mmkd.files.checkpoints import read_checkpoint, weights_of

EPS = 1e-5
NAMES = {'conv1': 'conv1.0', 'bn1': 'conv1.1', 'conv2': 'conv2.0', 'bn2': 'conv2.1'}


def cifar(state: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The weights of a CIFAR ResNet under the names of an ``ImageClassifier`` with ``mmkd.CIFARResNet``."""
    renamed = OrderedDict((_renamed(name), value) for name, value in state.items())
    for stage in (1, 2):
        width = renamed[f'backbone.stages.{stage}.0.conv1.0.weight'].shape[1]
        renamed.update(_copying_shortcut(f'backbone.stages.{stage}.0.shortcut', width))
    return renamed


def _renamed(name: str) -> str:
    first, *rest = name.split('.')
    if first == 'linear':
        return f'head.fc.{rest[0]}'
    if not first.startswith('layer'):
        return f'backbone.stem.{"0" if first == "conv1" else "1"}.{rest[0]}'
    block, layer, kind = rest
    return f'backbone.stages.{int(first[5:]) - 1}.{block}.{NAMES[layer]}.{kind}'


def _copying_shortcut(name: str, width: int) -> dict[str, Tensor]:
    """A 1x1 convolution from ``width`` channels to the middle of twice as many, and an identity norm."""
    weight = torch.zeros(2 * width, width, 1, 1)
    weight[torch.arange(width) + width // 2, torch.arange(width)] = 1.0
    ones, zeros = torch.ones(2 * width), torch.zeros(2 * width)
    scale = ones * (1 + EPS) ** 0.5
    norm = dict(weight=scale, bias=zeros, running_mean=zeros, running_var=ones)
    return {f'{name}.0.weight': weight} | {f'{name}.1.{k}': v.clone() for k, v in norm.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('kind', choices=['cifar'])
    parser.add_argument('source', type=Path)
    parser.add_argument('target', type=Path)
    args = parser.parse_args()
    state = cifar(weights_of(read_checkpoint(args.source)))
    args.target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state_dict=state), args.target)
    print(args.target)


if __name__ == '__main__':
    main()
