"""Weights of others in the models of the studies: CIFAR-10 ResNets of 20 to 56 layers, YOLOX-nano of COCO.

    python benchmarks/accuracy/import_weights.py cifar cifar10_resnet20.th work_dirs/accuracy/resnet20.pth
    python benchmarks/accuracy/import_weights.py yolox yolox_nano_coco.onnx work_dirs/accuracy/yolox_nano.pth \\
        --images DIR/bccd/BCCD

**CIFAR.** Their shortcuts are zero-padded copies of every second position; ours are 1x1 convolutions with a
norm, which here copy: the same function. Their images are normalised with ImageNet's mean and deviation, see
``configs/cifar10_resnet20_pretrained.py``; ``tools/test.py`` with it shows the accuracy.

**YOLOX** (needs ``pip install onnx onnxruntime``). The graph has its norms folded into convolutions. They
are taken in the order in which the network runs them. Norms then get the statistics of some images, and
weights that undo them, so that the function is the graph's and training can go on. Both are run on four of the
images and must agree.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from mmkd.family.building import build_model, load_config, model_config
from mmkd.files.checkpoints import read_checkpoint, weights_of

YOLOX = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'
SIDE, GREY, IMAGES = 416, 114, 32
TOLERANCE = 1e-3
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


def yolox(graph: Path, folder: Path) -> nn.Module:
    """mmdet's YOLOX-nano with the weights of an ONNX graph, compared with it on the images of a folder."""
    import onnx
    import onnxruntime

    model: Any = build_model(model_config(load_config(YOLOX))).eval()
    content = onnx.load(str(graph)).graph
    tensors = {
        t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in content.initializer
    }
    folded = [node.input for node in content.node if node.op_type == 'Conv']
    images = torch.stack([letterboxed(file) for file in sorted(folder.rglob('*.jpg'))[:IMAGES]])
    modules = dict(model.named_modules())
    for name, (_, weight, bias) in zip(in_graph_order(model), folded, strict=True):
        place(modules, name, tensors[weight], tensors[bias])
    calibrate(model, images)
    session = onnxruntime.InferenceSession(str(graph))
    for image in images[:4]:
        theirs = session.run(None, {'images': image[None].numpy()})[0][0]
        apart = np.abs(answers(model, image[None]) - theirs).max()
        if apart > TOLERANCE:
            raise SystemExit(f'the outputs differ by {apart:.2g}')
        print(f'largest difference of an output: {apart:.1e}')
    return model


def in_graph_order(model: Any) -> list[str]:
    """The convolutions of mmdet's YOLOX in the order of the original, whose short paths come later."""
    names, ran = {m: n for n, m in model.named_modules()}, []
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    handles = [m.register_forward_hook(lambda m, *_: ran.append(names[m])) for m in convolutions]
    with torch.no_grad():
        model(torch.zeros(1, 3, SIDE, SIDE), mode='tensor')
    for handle in handles:
        handle.remove()
    for i in [i for i, name in enumerate(ran) if name.endswith('short_conv.conv')]:
        ran[i], ran[i + 1] = ran[i + 1], ran[i]
    heads = [n for n in ran if n.startswith(('neck.out_convs', 'bbox_head'))]
    return [n for n in ran if n not in heads] + sorted(heads, key=_head_place)


def _head_place(name: str) -> tuple[int, int]:
    parts = ('out_convs', 'cls_convs', 'conv_cls', 'reg_convs', 'conv_reg', 'conv_obj')
    level = next(int(word) for word in name.split('.') if word.isdigit())
    return level, next(i for i, part in enumerate(parts) if part in name)


def place(modules: dict[str, nn.Module], name: str, weight: Tensor, bias: Tensor) -> None:
    """Put a folded convolution into one with a norm, whose statistics are 0 and 1 yet, or with a bias."""
    conv: Any = modules[name]
    conv.weight.data.copy_(weight)
    norm: Any = modules.get(f'{name.removesuffix(".conv")}.bn') if name.endswith('.conv') else None
    if norm is None:
        conv.bias.data.copy_(bias)
        return
    norm.weight.data.fill_((1 + norm.eps) ** 0.5)
    norm.bias.data.copy_(bias)


@torch.no_grad()
def calibrate(model: Any, images: Tensor) -> None:
    """Give norms the statistics of some images, and weights with which the network computes what it did."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    seen: dict[nn.Module, Tensor] = {}
    handles = [
        m.register_forward_hook(lambda m, x, _: seen.update({m: _moments(x[0])})) for m in norms
    ]
    model(images, mode='tensor')
    for handle in handles:
        handle.remove()
    for norm in norms:
        mean, variance = seen[norm]
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias += scale * (mean - norm.running_mean)
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def _moments(x: Tensor) -> Tensor:
    return torch.stack([x.mean((0, 2, 3)), x.var((0, 2, 3))])


@torch.no_grad()
def answers(model: Any, image: Tensor) -> np.ndarray:
    """Boxes as the head gives them, objectness and classes of every point, as the graph puts them."""
    classes, boxes, objects = model(image, mode='tensor')
    levels = [
        torch.cat([b, o.sigmoid(), c.sigmoid()], 1) for c, b, o in zip(classes, boxes, objects)
    ]
    return torch.cat([level.flatten(2) for level in levels], 2)[0].T.numpy()


def letterboxed(file: Path) -> Tensor:
    """An image as YOLOX sees it: BGR, 0 to 255, scaled to fit, the rest grey."""
    image = cv2.imread(str(file))
    scale = SIDE / max(image.shape[:2])
    size = [round(n * scale) for n in image.shape[1::-1]]
    canvas = np.full((SIDE, SIDE, 3), GREY, np.float32)
    canvas[: size[1], : size[0]] = cv2.resize(image, size)
    return torch.from_numpy(canvas).permute(2, 0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('kind', choices=['cifar', 'yolox'])
    parser.add_argument('source', type=Path)
    parser.add_argument('target', type=Path)
    parser.add_argument('--images', type=Path, help='of YOLOX: a folder of JPEG images')
    args = parser.parse_args()
    if args.kind == 'yolox' and args.images is None:
        parser.error('yolox needs --images FOLDER')
    if args.kind == 'cifar':
        state = cifar(weights_of(read_checkpoint(args.source)))
    else:
        state = OrderedDict(yolox(args.source, args.images).state_dict())
    args.target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state_dict=state), args.target)
    print(args.target)


if __name__ == '__main__':
    main()
