"""Mark layers so that they survive onnxruntime's optimizer and can be found again afterwards.

Each BatchNormalization of rank 4 is replaced by a depthwise 1x1 convolution with bias, which
computes the same for given statistics. Its scale and shift are codes that identify the layer, and
its input becomes an additional output, so that no optimization fuses across it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from bn_ops.core.statistics import LayerName
from bn_ops.engines.onnx.batchnorm import INPUT, batchnorm_nodes
from bn_ops.engines.onnx.graph import reads
from bn_ops.engines.onnx.plan import Target
from bn_ops.engines.onnx.prepare import PreparedModel
from bn_ops.onnx_files.large_models import name_large_tensors

__all__ = ["FoundLayer", "MarkedModel", "find_layers", "mark_layers"]

# Layer k's scale is this plus k, and its shift the negative: exact in float32, and not a scale of
# trained networks. If a network had such a scale, a layer would be found twice and the optimized
# graph would not be used.
_FIRST_CODE = 4096.0

_FLOAT = onnx.TensorProto.FLOAT
_PREFIX = "bnrecal.layer"
BLOCKED_DOMAIN = "com.microsoft.nchwc"
_CONVOLUTIONS = frozenset({"Conv", "FusedConv"})
_SHIFT_SLOT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLayer:
    """A layer in the optimized graph.

    Attributes:
        target: its node and its input.
        scale, shift: names of the initializers with its scale (C', 1, 1, 1) and shift (C',).
        blocked: whether its input is in the blocked layout, with C' channels instead of C.
    """

    target: Target
    scale: str
    shift: str
    blocked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedModel:
    """A model with marked layers.

    Attributes:
        model: its outputs are those of the source and one tap per layer.
        large: values of the large initializers, which the model only names, so that they are not
            copied or serialized.
    """

    model: onnx.ModelProto
    large: Mapping[str, NDArray[np.generic]]


def mark_layers(prepared: PreparedModel, layers: Collection[LayerName]) -> MarkedModel:
    """Return a copy of the model with the given layers (of rank 4) as marked convolutions."""
    source = prepared.model.graph
    graph = onnx.GraphProto(name=source.name)
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    chosen = {position: node for position, node in batchnorm_nodes(source) if node.name in layers}
    codes = {name: code for code, name in enumerate(sorted(layers))}
    channels = {layer.name: layer.channels for layer in prepared.layers}
    for position, node in enumerate(source.node):
        if position not in chosen:
            graph.node.append(node)
            continue
        code, count = codes[node.name], channels[node.name] or 0
        tap = f"{_PREFIX}{code}.tap"
        graph.node.extend(_marked(node, code, count, tap))
        graph.initializer.extend(_codes(code, count))
        graph.output.append(helper.make_tensor_value_info(tap, _FLOAT, None))
    large = _copy_initializers(source, graph)
    model = helper.make_model(
        graph,
        opset_imports=list(prepared.model.opset_import),
        ir_version=max(prepared.model.ir_version, 4),
    )
    return MarkedModel(model=model, large=large)


def _copy_initializers(
    source: onnx.GraphProto, graph: onnx.GraphProto
) -> dict[str, NDArray[np.generic]]:
    """Copy the initializers that the graph reads; return the values of those only named."""
    read = {name for node in graph.node for name in reads(node)}
    read.update(value.name for value in graph.output)
    return name_large_tensors((t for t in source.initializer if t.name in read), graph)


def _marked(
    node: onnx.NodeProto, code: int, channels: int, tap: str
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    tensor = node.input[INPUT]
    name = f"{_PREFIX}{code}"
    layer = helper.make_node(
        "Conv",
        [tensor, f"{name}.scale", f"{name}.shift"],
        [node.output[0]],
        name=name,
        group=channels,
        kernel_shape=[1, 1],
    )
    return layer, helper.make_node("GlobalAveragePool", [tensor], [tap], name=tap)


def _codes(code: int, channels: int) -> tuple[onnx.TensorProto, onnx.TensorProto]:
    value = np.float32(_FIRST_CODE + code)
    scale = np.full((channels, 1, 1, 1), value)
    return (
        numpy_helper.from_array(scale, f"{_PREFIX}{code}.scale"),
        numpy_helper.from_array(-scale.reshape(-1), f"{_PREFIX}{code}.shift"),
    )


def find_layers(
    graph: onnx.GraphProto,
    weights: Mapping[str, np.ndarray],
    layers: Mapping[LayerName, int],
) -> dict[LayerName, FoundLayer] | None:
    """Return the marked layers of an optimized graph, or None if any cannot be identified.

    Args:
        graph: the optimized graph.
        weights: its initializers.
        layers: marked layer → its number of channels.
    """
    codes = {_FIRST_CODE + code: name for code, name in enumerate(sorted(layers))}
    found: dict[LayerName, FoundLayer] = {}
    for position, node in enumerate(graph.node):
        code = _code(node, weights)
        name = None if code is None else codes.get(code)
        if name is None:
            continue
        count = int(np.count_nonzero(weights[node.input[1]]))
        if name in found or count != layers[name]:
            return None
        found[name] = FoundLayer(
            target=Target(position=position, tensor=node.input[0]),
            scale=node.input[1],
            shift=node.input[_SHIFT_SLOT],
            blocked=node.domain == BLOCKED_DOMAIN,
        )
    return found if found.keys() == layers.keys() and _distinct(found) else None


def _code(node: onnx.NodeProto, weights: Mapping[str, np.ndarray]) -> float | None:
    """Return the code in a convolution's weights and, negated, in its bias; None without a code."""
    if node.op_type not in _CONVOLUTIONS or len(node.input) <= _SHIFT_SLOT:
        return None
    scale, shift = (weights.get(node.input[slot]) for slot in (1, _SHIFT_SLOT))
    if scale is None or shift is None or scale.size != shift.size or not scale.size:
        return None
    code = float(scale.reshape(-1)[0])
    same = np.array_equal(scale.reshape(-1), -shift) and bool(np.isin(scale, (0.0, code)).all())
    return code if same and code >= _FIRST_CODE else None


def _distinct(found: Mapping[LayerName, FoundLayer]) -> bool:
    own = [name for layer in found.values() for name in (layer.scale, layer.shift)]
    return len(set(own)) == len(own)
