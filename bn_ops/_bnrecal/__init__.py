"""bnrecal: exact BatchNorm recalibration, folding and verification.

The public names of `bn_ops` under the name of the distribution::

    import bnrecal

    artifact = bnrecal.adapt("model.onnx", batches)
    artifact.save("recalibrated.onnx")

Wheels install this module as the package `bnrecal`. Names load on first use, as in `bn_ops`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bn_ops

if TYPE_CHECKING:
    from bn_ops import *  # noqa: F403 - the same names, for type checkers

__all__ = bn_ops.__all__


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__version__":
        raise AttributeError(f"module 'bnrecal' has no attribute {name!r}")
    try:
        value = getattr(bn_ops, name)
    except AttributeError:
        raise AttributeError(f"module 'bnrecal' has no attribute {name!r}") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(bn_ops.__all__)
