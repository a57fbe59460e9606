"""Load packages that a task rarely needs on the first access to them.

onnx_ir imports sympy for arithmetic with symbolic sizes, which no task of a worker does. Loading it
takes 0.3 s, as long as onnx and numpy together, and every task starts a process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

__all__ = ["defer_sympy"]

# The second builds a table of sympy's functions when it is executed.
_DEFERRED = frozenset({"sympy", "onnx_ir._symbolic_shapes"})


class _DeferringFinder(MetaPathFinder):
    """Finds the deferred modules, and leaves their execution to the first access."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _DEFERRED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, Loader):
            spec.loader = LazyLoader(spec.loader)
        return spec


def defer_sympy() -> None:
    """Let sympy load on the first access; called while the process has one thread."""
    sys.meta_path.insert(0, _DeferringFinder())
