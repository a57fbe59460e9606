"""Local functions: a BatchNormalization inside one can only be folded where it is called."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from bn_ops.errors import ModelInvalidError
from bn_ops.folding.batchnorm import is_batchnorm

__all__ = ["inline_normalising_functions"]


def inline_normalising_functions(model: ir.Model) -> None:
    """Inline every local function that normalises, itself or by a call. In place.

    Other functions stay functions.

    Raises:
        ModelInvalidError: the functions call each other in a circle.
    """
    wanted = _normalising(model)
    if not wanted:
        return
    try:
        InlinePass(criteria=lambda function: function.identifier() in wanted)(model)
    except ir.passes.PreconditionError as error:
        raise ModelInvalidError(f"the local functions cannot be inlined: {error}") from error


def _normalising(model: ir.Model) -> set[ir.OperatorIdentifier]:
    found: set[ir.OperatorIdentifier] = set()
    size = -1
    while len(found) != size:
        size = len(found)
        for identifier, function in model.functions.items():
            nodes = list(function.all_nodes())
            if any(is_batchnorm(node) or node.op_identifier() in found for node in nodes):
                found.add(identifier)
    return found
