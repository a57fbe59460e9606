"""The form in which a model is deployed: its opset, and the operators of the target.

This module loads no onnx; `bn_ops.onnx_files.deployment.request` converts and checks models.
"""

from __future__ import annotations

from bn_ops.onnx_files.deployment.targets import TARGETS, OperatorTable, Target, check_opset

__all__ = ["TARGETS", "OperatorTable", "Target", "check_opset"]
