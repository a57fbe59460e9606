"""Detect models whose BatchNorm an exporter has already folded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bn_ops.onnx_files.traversal import all_nodes, has_batchnorm

if TYPE_CHECKING:
    import onnx

__all__ = ["detect_already_folded"]

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_BIAS = 2


def detect_already_folded(model: onnx.ModelProto) -> bool:
    """Return whether an exporter seems to have folded BatchNorm into convolutions.

    Such a model has convolutions with a bias, and no BatchNormalization anywhere, including
    subgraphs and local functions. A network that never had BatchNorm looks the same; in either case
    there is nothing to recalibrate. The model is not changed.
    """
    if has_batchnorm(model):
        return False
    return any(
        node.op_type in _CONVOLUTIONS and len(node.input) > _BIAS and bool(node.input[_BIAS])
        for node in all_nodes(model)
    )
