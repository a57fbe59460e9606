"""Optimize a model with onnxruntime while keeping its layers identifiable.

onnxruntime keeps activations in a blocked layout between operators and fuses activations and
additions into convolutions. Cutting the original graph loses both at every cut. So the whole model
is optimized once, and the optimized graph is cut.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from bn_ops.core.statistics import LayerName
from bn_ops.engines.onnx.optimized.markers import FoundLayer, MarkedModel, find_layers, mark_layers
from bn_ops.engines.onnx.prepare import PreparedModel
from bn_ops.onnx_files.session import onnxruntime, translated

__all__ = ["OptimizedGraph", "optimize"]

# These fusions would merge a constant operation after a layer into the layer's scale and shift.
_DISABLED_FUSIONS = ("ConvMulFusion", "ConvAddFusion", "ConvBNFusion")

# Initializers of at least this size are written to an external data file and memory-mapped.
_MIN_EXTERNAL_BYTES = 1024

# Alignment of tensors that onnxruntime's kernels may require.
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizedGraph:
    """An optimized model.

    Attributes:
        model: nodes and small initializers; the large ones are in `weights` only.
        weights: every initializer.
        layers: the marked layers.
    """

    model: onnx.ModelProto
    weights: Mapping[str, NDArray[np.generic]]
    layers: Mapping[LayerName, FoundLayer]


def optimize(prepared: PreparedModel, layers: Collection[LayerName]) -> OptimizedGraph | None:
    """Return the optimized model, or None if a layer cannot be identified in it.

    Raises:
        EngineError: onnxruntime rejects the model.
    """
    channels = {layer.name: layer.channels or 0 for layer in prepared.layers}
    with tempfile.TemporaryDirectory(prefix="bnrecal-") as folder:
        path = Path(folder, "optimized.onnx")
        _write_optimized(mark_layers(prepared, layers), path)
        model = onnx.load_model(str(path), load_external_data=False)
        # A mapping stays valid after its file has been unlinked.
        weights = {t.name: _value(t, path.parent) for t in model.graph.initializer}
    found = find_layers(model.graph, weights, {name: channels[name] for name in layers})
    if found is None:
        return None
    return OptimizedGraph(model=model, weights=weights, layers=found)


def _write_optimized(marked: MarkedModel, path: Path) -> None:
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(path)
    for key, value in {
        "session.disable_prepacking": "1",
        "session.optimized_model_external_initializers_file_name": f"{path.stem}.bin",
        "session.optimized_model_external_initializers_min_size_in_bytes": str(_MIN_EXTERNAL_BYTES),
    }.items():
        options.add_session_config_entry(key, value)
    value_of = ort.OrtValue.ortvalue_from_numpy
    options.add_external_initializers(
        list(marked.large), [value_of(array) for array in marked.large.values()]
    )
    with translated("optimizing the model"):
        ort.InferenceSession(
            marked.model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(_DISABLED_FUSIONS),
        )


def _value(tensor: onnx.TensorProto, folder: Path) -> NDArray[np.generic]:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    where = {entry.key: entry.value for entry in tensor.external_data}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    offset = int(where.get("offset", 0))
    mapped: NDArray[Any] = np.memmap(
        folder / where["location"], dtype=dtype, mode="r", offset=offset, shape=tuple(tensor.dims)
    )
    aligned = mapped.ctypes.data % _ALIGNMENT == 0
    return mapped if aligned else np.array(mapped)
