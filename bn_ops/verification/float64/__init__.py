"""Run a model in float64 with onnx's reference operators, and fast ones for the expensive.

onnxruntime has no float64 convolution on the CPU, so the reference runs in numpy. A model that
cannot be run this way is compared in its own element types instead, and the reason is reported.
"""

from __future__ import annotations

from bn_ops.verification.float64.evaluate import Float64Model, NotExactError, evaluation

__all__ = ["Float64Model", "NotExactError", "evaluation"]
