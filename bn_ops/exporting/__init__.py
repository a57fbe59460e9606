"""Torch modules to ONNX files that can still be recalibrated: every BatchNorm stays a node."""

from __future__ import annotations

from bn_ops.exporting._export import export

__all__ = ["export"]
