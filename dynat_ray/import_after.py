"""A module of ours that is imported right after another package's, to register something there.

Whoever imports that package finds what we add, and whoever does not need not wait for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def import_after(package: str, ours: str) -> None:
    """Imports a module as soon as a package is there.

    Args:
        package: At the top, such as `timm`; where it is imported already, that is now.
        ours: Full name of the module.
    """
    if package in sys.modules:
        import_module(ours)
    else:
        sys.meta_path.insert(0, _Finder(package, ours))


class _Finder(MetaPathFinder):
    """Finds a package once, as everybody does, and has our module imported at its end."""

    def __init__(self, package: str, ours: str) -> None:
        self._package, self._ours = package, ours

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._package:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_both(module: ModuleType) -> None:
                execute(module)
                import_module(self._ours)

            # The loader stays what it is, since others ask it for source and data.
            spec.loader.exec_module = execute_both  # type: ignore[method-assign]
        return spec
