"""The ONNX engine: exact recalibration by segments of the graph in onnxruntime."""

from bn_ops.onnx_engine.describe import describe_prepared
from bn_ops.onnx_engine.frontier import OnnxFrontier
from bn_ops.onnx_engine.load import load_model
from bn_ops.onnx_engine.prepare import PreparedModel, prepare

__all__ = ["OnnxFrontier", "PreparedModel", "describe_prepared", "load_model", "prepare"]
