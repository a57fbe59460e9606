"""Digests that prove what was frozen: all of a model but the statistics that a run may change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from bn_ops.onnx_engine.prepare import PreparedModel

__all__ = ["combined", "frozen_digests", "model_digest"]

STRUCTURE = "(graph structure)"


def model_digest(model: onnx.ModelProto) -> str:
    """sha256 of a model's deterministic serialisation, hexadecimal."""
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def frozen_digests(prepared: PreparedModel, changeable: frozenset[str]) -> dict[str, str]:
    """sha256 of each tensor that must not change, and of the graph around the tensors.

    Args:
        prepared: the model.
        changeable: names of the initialisers that hold the statistics of the layers that are
            recalibrated.
    """
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(prepared.model)
    digests = {
        tensor.name: hashlib.sha256(tensor.SerializeToString(deterministic=True)).hexdigest()
        for tensor in skeleton.graph.initializer
        if tensor.name not in changeable
    }
    del skeleton.graph.initializer[:]
    return {**dict(sorted(digests.items())), STRUCTURE: model_digest(skeleton)}


def combined(digests: Mapping[str, str]) -> str:
    """One sha256 over a set of digests, independent of their order."""
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
