"""Exact weights of a folded model: their float64 values before rounding, which certify the fold.

A stored folded model differs from the unfolded one even in float64, because its weights were
rounded to the file's element type, and a network may amplify that beyond any fixed tolerance. The
fold is correct if there are float64 weights, each of which rounds to the stored one, with which the
folded model computes in float64 what the unfolded one does. The origin of these weights does not
matter: that they round to the stored ones, and that the outputs agree, is checked.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper

from bn_ops.errors import BnOpsError
from bn_ops.folding.casting import cast
from bn_ops.folding.layers import find_layers
from bn_ops.folding.proto_io import read_graph
from bn_ops.folding.run import fold

__all__ = ["ExactWeights", "misrounded_tensor", "refolded"]

ExactWeights = Mapping[str, NDArray[np.float64]]
"""Initializer → its exact value; other tensors are exact as stored."""


def misrounded_tensor(model: onnx.ModelProto, weights: ExactWeights) -> str | None:
    """Return the name of a stored tensor that is not its rounded exact value, or None."""
    for tensor in model.graph.initializer:
        exact = weights.get(tensor.name)
        if exact is None:
            continue
        rounded = cast(exact, ir.DataType(tensor.data_type))
        stored = numpy_helper.to_array(tensor)
        if rounded.shape != stored.shape or rounded.tobytes() != stored.tobytes():
            return str(tensor.name)
    return None


def refolded(reference: onnx.ModelProto, candidate: onnx.ModelProto) -> ExactWeights | None:
    """Return the exact weights if the candidate equals the folded reference, else None.

    Layers that the candidate still has are left unfolded.
    """
    try:
        kept = {layer.name: "kept" for layer in find_layers(read_graph(candidate))}
        folded = fold(reference, skip=kept)
    except BnOpsError:
        return None
    return folded.exact if folded.model.graph == candidate.graph else None
