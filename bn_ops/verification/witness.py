"""The proof of a fold: weights before their one rounding, with which it is exact.

A folded model as it is stored differs from the unfolded one even in float64, since its weights were
rounded to the file's element type, and a network may amplify that beyond any fixed tolerance. What
settles whether the fold is right is a *witness*: float64 weights, each of which rounds to the one
that is stored, with which the folded model computes in float64 what the unfolded one does. Where
the weights come from does not matter; that they round to the stored ones, and that the outputs
agree, is checked.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper

from bn_ops.errors import BnOpsError
from bn_ops.folding.layers import find_layers
from bn_ops.folding.numbers import cast
from bn_ops.folding.protos import read_graph
from bn_ops.folding.run import fold

__all__ = ["Witness", "refolded", "rounds_elsewhere"]

Witness = Mapping[str, NDArray[np.float64]]
"""Initializer → its exact value; every other tensor stands for itself."""


def rounds_elsewhere(model: onnx.ModelProto, witness: Witness) -> str | None:
    """Name a stored tensor that is not its exact value, rounded once; None where all are."""
    for tensor in model.graph.initializer:
        exact = witness.get(tensor.name)
        if exact is None:
            continue
        rounded = cast(exact, ir.DataType(tensor.data_type))
        stored = numpy_helper.to_array(tensor)
        if rounded.shape != stored.shape or rounded.tobytes() != stored.tobytes():
            return str(tensor.name)
    return None


def refolded(reference: onnx.ModelProto, candidate: onnx.ModelProto) -> Witness | None:
    """Return a witness for a model that folding the reference makes; None for any other.

    Layers that the candidate still has are left.
    """
    try:
        left = {layer.name: "left" for layer in find_layers(read_graph(candidate))}
        folded = fold(reference, leave=left)
    except BnOpsError:
        return None
    return folded.exact if folded.model.graph == candidate.graph else None
