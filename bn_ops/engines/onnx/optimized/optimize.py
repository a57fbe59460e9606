"""onnxruntime's own optimised form of a model, with its layers still in it.

Between its own operators onnxruntime keeps activations in a blocked layout, and fuses activations
and additions into convolutions. A cut through the graph as it was exported loses both at every
border. So the model is optimised once, as a whole, and what comes out is cut.
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

# They would write a layer's constant successor into the layer's own scale and shift.
_NOT_ACROSS_LAYERS = ("ConvMulFusion", "ConvAddFusion", "ConvBNFusion")

# Initialisers from this size on are written beside the model, and mapped instead of parsed.
_BESIDE_BYTES = 1024

# What onnxruntime's kernels may expect of a tensor's address.
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizedGraph:
    """An optimised model.

    Attributes:
        model: nodes and small initialisers; the large ones are in `weights` only.
        weights: every initialiser.
        layers: the marked layers.
    """

    model: onnx.ModelProto
    weights: Mapping[str, NDArray[np.generic]]
    layers: Mapping[LayerName, FoundLayer]


def optimize(prepared: PreparedModel, layers: Collection[LayerName]) -> OptimizedGraph | None:
    """Optimise a model around the given layers; None when a layer cannot be found again.

    Raises:
        EngineError: onnxruntime refuses the model.
    """
    channels = {layer.name: layer.channels or 0 for layer in prepared.layers}
    with tempfile.TemporaryDirectory(prefix="bnrecal-") as folder:
        path = Path(folder, "optimised.onnx")
        _write_optimized(mark_layers(prepared, layers), path)
        model = onnx.load_model(str(path), load_external_data=False)
        # A mapping outlives its file's name.
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
        "session.optimized_model_external_initializers_min_size_in_bytes": str(_BESIDE_BYTES),
    }.items():
        options.add_session_config_entry(key, value)
    value_of = ort.OrtValue.ortvalue_from_numpy
    options.add_external_initializers(
        list(marked.large), [value_of(array) for array in marked.large.values()]
    )
    with translated("optimising the model"):
        ort.InferenceSession(
            marked.model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(_NOT_ACROSS_LAYERS),
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
