"""What of a teacher nothing reads need not run: a head's boxes, where only its classes are tapped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Size, Tensor, nn

LAYERS = (nn.Conv2d, nn.Linear)


def skip_unread(model: nn.Module, run: Callable[[], list[Tensor]]) -> list[str]:
    """Let layers that no tapped tensor depends on give zeros; the names of these layers.

    Which they are, autograd's graph of one run says. What depends on them in other ways (indices, what is
    detached) shows when the answers are compared: unless they are the same bit for bit, all layers run.

    Args:
        model: a frozen model.
        run: gives what is tapped of a small batch.

    >>> class Head(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.classes, self.boxes = nn.Linear(2, 3), nn.Linear(2, 4)
    ...     def forward(self, x):
    ...         return self.classes(x), self.boxes(x)
    >>> from mmkd.family.taps import capture
    >>> def run():
    ...     with capture(model, [('0.classes', 'output')]) as features:
    ...         model(torch.ones(1, 2))
    ...     return features.tensors()
    >>> model = nn.Sequential(Head()).requires_grad_(False)
    >>> skip_unread(model, run), bool(model(torch.ones(1, 2))[1].any())
    (['0.boxes'], False)
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LAYERS)}
    right, read, ran = _traced(layers, run)
    unread = [
        name for name, layer in layers.items() if id(layer.weight) not in read and name in ran
    ]
    for name in unread:
        setattr(layers[name], 'forward', Zeros(layers[name]))  # noqa: B010
    if unread and not _same(run(), right):
        for name in unread:
            del layers[name].forward
        return []
    return unread


class Zeros:
    """In place of a layer's forward: zeros of the shape that it would give.

    >>> Zeros(nn.Conv2d(3, 8, 3, stride=2, padding=1))(torch.ones(1, 3, 8, 8)).shape
    torch.Size([1, 8, 4, 4])
    """

    def __init__(self, layer: Any) -> None:
        self.channels = layer.weight.shape[0]
        self.window = None
        if isinstance(layer, nn.Conv2d):
            self.window = [layer.kernel_size, layer.stride, layer.padding, layer.dilation]

    def __call__(self, x: Tensor) -> Tensor:
        """Zeros."""
        if self.window is None:
            return x.new_zeros(*x.shape[:-1], self.channels)
        sizes = [_length(n, *of) for n, *of in zip(x.shape[-2:], *self.window)]
        return x.new_zeros(*x.shape[:-3], self.channels, *sizes)


def _length(length: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _traced(
    layers: dict[str, Any], run: Callable[[], list[Tensor]]
) -> tuple[list[Tensor], set[int], set[str]]:
    """What a run gives, the weights that the tapped tensors depend on, and the layers that ran."""
    ran: set[str] = set()
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: ran.add(name))
        for name, layer in layers.items()
    ]
    for layer in layers.values():
        layer.weight.requires_grad_(True)
    try:
        with torch.enable_grad():
            found = run()
        return found, leaves(found), ran
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers.values():
            layer.weight.requires_grad_(False)


def leaves(tensors: Iterable[Tensor]) -> set[int]:
    """The ids of the parameters that some tensors depend on."""
    waiting = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen, found = set(waiting), set()
    while waiting:
        node: Any = waiting.pop()
        if hasattr(node, 'variable'):
            found.add(id(node.variable))
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return found


def _same(found: list[Tensor], right: list[Tensor]) -> bool:
    shapes: tuple[list[Size], list[Size]] = [t.shape for t in found], [t.shape for t in right]
    return shapes[0] == shapes[1] and all(torch.equal(a, b.detach()) for a, b in zip(found, right))
