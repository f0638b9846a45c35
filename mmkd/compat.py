"""What the stack needs before anything else is imported. ``import mmkd`` runs :func:`prepare` first."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from types import ModuleType

from . import torchvision_cure


def prepare() -> None:
    """Make the family importable, and its configs and ours resolvable. Safe to call again."""
    torchvision_cure.install()
    rename_mmcls()
    register_config_packages()


def _installed(kind: type[MetaPathFinder]) -> bool:
    return any(isinstance(finder, kind) for finder in sys.meta_path)


class _Renamed(MetaPathFinder, Loader):
    """Serves every module of an old package name with the same module of the new one."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == self.old or fullname.startswith(self.old + '.'):
            return spec_from_loader(fullname, self)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self.new + spec.name[len(self.old) :])
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own_spec  # the import system has just put the old name there
        if module.__name__ == f'{self.new}.registry':
            self._share_registries(module)

    def _share_registries(self, module: ModuleType) -> None:
        for registry in vars(module).values():
            if getattr(registry, 'scope', None) == self.new and registry.parent is not None:
                registry.parent.children[self.old] = registry


def rename_mmcls() -> None:
    """Let ``mmcls.`` scopes, imports and ``mmcls::`` configs resolve to mmpretrain, its successor."""
    if not _installed(_Renamed) and find_spec('mmcls') is None:
        sys.meta_path.insert(0, _Renamed('mmcls', 'mmpretrain'))


def register_config_packages() -> None:
    """Tell mmengine where ``mmkd::``, ``mmseg::`` and ``mmcls::`` configs are."""
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE['mmkd'] = 'mmkd'
    if find_spec('mmsegmentation') is None:
        MODULE2PACKAGE['mmseg'] = 'mmseg'  # its distribution has another name than mmengine thinks
    if _installed(_Renamed):
        MODULE2PACKAGE['mmcls'] = 'mmpretrain'
