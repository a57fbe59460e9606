"""The model and the batches of the ingest benchmark."""

from __future__ import annotations

import numpy as np
import onnx
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

__all__ = ["LARGE", "SMALL", "body", "model"]

# 8 images of 3×224×224 and one of 3×41×41, in float32.
LARGE = 8 * 3 * 224 * 224 * 4
SMALL = 3 * 41 * 41 * 4
_SHAPES = {LARGE: (8, 3, 224, 224), SMALL: (1, 3, 41, 41)}


def body(size: int) -> bytes:
    """Return a batch with `size` bytes of data, as safetensors."""
    values = np.random.default_rng(0).normal(size=_SHAPES[size]).astype(np.float32)
    return safetensors.numpy.save({"x": values})


def model() -> bytes:
    """Return a model of one BatchNorm over images of any size: only the ingest is measured."""
    names = {"scale": 1, "shift": 0, "mean": 0, "var": 1}
    tensors = [numpy_helper.from_array(np.full(3, v, np.float32), n) for n, v in names.items()]
    shape: list[str | int | None] = ["N", 3, "H", "W"]
    graph = helper.make_graph(
        [helper.make_node("BatchNormalization", ["x", *names], ["y"], name="bn")],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        tensors,
    )
    opset = [helper.make_opsetid("", 17)]
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=8)
    return bytes(made.SerializeToString())
