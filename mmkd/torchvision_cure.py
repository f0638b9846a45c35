"""Makes torchvision importable where its compiled part does not fit the torch that is installed.

A CUDA wheel of torchvision beside a CPU torch dies at import with ``operator torchvision::nms does not
exist``, and mmengine, mmdet and mmpretrain with it. With the schemas of two operators declared its
transforms work; its compiled operators do not, and nobody here needs them. Where torchvision is absent or
imports by itself nothing happens, and nothing is imported before somebody asks for torchvision.

The module stands alone: ``tools/setup_env.sh`` copies it into the environment, where a ``.pth`` file runs
:func:`install` at the start of every interpreter, so that the plain toolboxes work there too.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing would cost every interpreter some milliseconds
    from typing import Any

_KEPT_LIBRARIES: list[Any] = []


def install() -> None:
    """Watch for the import of torchvision. Safe to call again.

    >>> install()
    >>> [type(finder).__name__ for finder in sys.meta_path].count('TorchvisionFinder')
    1
    """
    if not any(type(finder).__name__ == TorchvisionFinder.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, TorchvisionFinder())


class TorchvisionFinder:
    """Finds torchvision as the other finders do, with a loader that cures it if need be."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """The spec of torchvision; None for every other module."""
        if fullname != 'torchvision':
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, 'find_spec', None)
            spec = find(fullname, path, target) if find else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader:
    """Loads torchvision; if it lacks its operators, declares them and loads it once more."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def create_module(self, spec: Any) -> Any:
        return self.inner.create_module(spec)

    def exec_module(self, module: Any) -> None:
        try:
            self.inner.exec_module(module)
            return
        except RuntimeError as error:
            if 'torchvision::' not in str(error):
                raise
        _declare_operators()
        self.inner.exec_module(module)


def _declare_operators() -> None:
    import torch

    library = torch.library.Library('torchvision', 'FRAGMENT')
    for operator in ('nms', 'qnms'):
        library.define(f'{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    _KEPT_LIBRARIES.append(library)  # the schemas live as long as this object
