"""Export torch modules to ONNX with every BatchNorm kept as a node."""

from __future__ import annotations

from bn_ops.exporting._export import export

__all__ = ["export"]
