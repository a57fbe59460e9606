"""Translate an exported program to an ONNX graph with torch's exporter, its optimizer off.

With `optimize=True`, the default, the exporter folds a convolution and the BatchNorm after it into
one node, and the file can no longer be recalibrated. `bn_ops.exporting._cleaning` never does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from bn_ops.exporting._exporter_steps import exporter_step

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch.export import ExportedProgram

__all__ = ["OPSET", "to_onnx_ir"]

OPSET = 20


def to_onnx_ir(program: ExportedProgram) -> ir.Model:
    """Translate a program operator by operator.

    Raises:
        ExportError: an operator is not supported in ONNX.
    """
    with exporter_step("translating it to ONNX", module=None):
        onnx_program = torch.onnx.export(
            program,
            (),
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=OPSET,
            external_data=False,
            custom_translation_table=_translations(),
        )
        assert onnx_program is not None
        return onnx_program.model


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    from onnxscript import opset20  # noqa: PLC0415 - takes seconds to load

    op: Any = opset20

    def filled(number: float, like: Any) -> Any:
        scalar = op.CastLike(op.Constant(value_float=number), like)
        return op.Expand(scalar, op.Shape(like))

    def batch_norm(  # noqa: PLR0917 - the operator's own order
        x: Any,
        weight: Any = None,
        bias: Any = None,
        running_mean: Any = None,
        running_var: Any = None,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> tuple[Any, Any, Any]:
        """Emit one node per layer; torch's own form expands a missing scale to the input."""
        if weight is None:
            weight = filled(1.0, running_mean)
        if bias is None:
            bias = filled(0.0, running_mean)
        y = op.BatchNormalization(
            x, weight, bias, running_mean, running_var, epsilon=eps, momentum=1.0 - momentum
        )
        nothing = op.Constant(value_floats=[0.0])
        return y, nothing, nothing

    return {torch.ops.aten._native_batch_norm_legit_no_training.default: batch_norm}  # noqa: SLF001
