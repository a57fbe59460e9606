"""Read the affine map of a BatchNormalization node, or why it is not constant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bn_ops.folding.affine import ChannelAffine, Float64Array
from bn_ops.folding.plan import Refusal

if TYPE_CHECKING:
    import onnx_ir as ir

    from bn_ops.folding.constants import Constants

__all__ = ["MIN_OPSET", "is_batchnorm", "read_batchnorm", "standard_opset"]

MIN_OPSET = 7
"""Before opset 7 a BatchNormalization is in training mode by default, and Add, Mul and Gemm have
other broadcasting rules. Such models are not folded."""

_INPUTS = ("scale", "shift", "mean", "variance")
_DEFAULT_EPSILON = float(np.float32(1e-5))


def is_batchnorm(node: ir.Node) -> bool:
    """Return whether a node is the standard BatchNormalization operator."""
    return node.op_type == "BatchNormalization" and node.domain == ""


def standard_opset(model: ir.Model) -> int:
    """Return the version of the standard operators, for either name of their domain."""
    imports = model.opset_imports
    return imports.get("", imports.get("ai.onnx", 1))


def read_batchnorm(node: ir.Node, constants: Constants, opset: int) -> ChannelAffine | Refusal:
    """Read `scale = γ/√(var+ε)`, `shift = β − scale·mean` in float64.

    Source: Ioffe & Szegedy 2015, Algorithm 2, step 11.
    """
    reason = _not_inference(node, opset)
    if reason is not None:
        return Refusal(reason=reason)
    vectors: list[Float64Array] = []
    for index, what in enumerate(_INPUTS, start=1):
        found = constants.read(node, index)
        if isinstance(found, Refusal):
            return Refusal(reason=f"its {what} cannot be read: {found.reason}")
        vectors.append(found.array)
    return _affine(vectors, node.attributes.get_float("epsilon", _DEFAULT_EPSILON))


def _not_inference(node: ir.Node, opset: int) -> str | None:
    if opset < MIN_OPSET:
        return f"the model has opset {opset}; folding supports {MIN_OPSET} and later"
    attributes = node.attributes
    if "training_mode" in attributes and attributes["training_mode"].value != 0:
        return "it uses batch statistics (training_mode is 1)"
    if any(value.name for value in node.outputs[1:]):
        return "it uses batch statistics: it has outputs for them"
    if "spatial" in attributes and attributes["spatial"].value != 1:
        return "it normalizes each position separately (spatial is 0)"
    if len(node.inputs) < len(_INPUTS) + 1 or node.inputs[0] is None:
        return "it has too few inputs"
    return None


def _affine(vectors: list[Float64Array], epsilon: float) -> ChannelAffine | Refusal:
    gamma, beta, mean, var = vectors
    if gamma.ndim != 1 or any(vector.shape != gamma.shape for vector in vectors):
        return Refusal(reason="its scale, shift, mean and variance are not vectors of equal length")
    spread = var + epsilon
    if not np.all(spread > 0.0):
        return Refusal(reason="a variance plus epsilon is not positive")
    with np.errstate(over="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(spread)
        shift = beta - scale * mean
    if not (np.all(np.isfinite(scale)) and np.all(np.isfinite(shift))):
        return Refusal(reason="its parameters contain NaN or infinity")
    return ChannelAffine(scale=scale, shift=shift, axis=1)
