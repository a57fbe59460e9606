"""The ONNX engine: recalibrates an ONNX model by running segments of it in onnxruntime."""

from bn_ops.engines.onnx.describe import describe_prepared
from bn_ops.engines.onnx.frontier import OnnxFrontier
from bn_ops.engines.onnx.prepare import PreparedModel, prepare
from bn_ops.onnx_files.load import load_model

__all__ = ["OnnxFrontier", "PreparedModel", "describe_prepared", "load_model", "prepare"]
