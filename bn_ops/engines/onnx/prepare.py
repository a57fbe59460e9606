"""Copy a model and give each layer a unique name and its own statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from bn_ops.core.layers import LayerInfo
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.engines.onnx.batchnorm import (
    INPUT,
    MEAN,
    VAR,
    batchnorm_nodes,
    hidden_layers,
    layer_info,
    layer_name,
    statistics_tensors,
)
from bn_ops.engines.onnx.graph import GraphIndex, index_graph, reads
from bn_ops.onnx_files.large_models import MIN_IR_WITHOUT_INPUTS, inlined, light_copy
from bn_ops.onnx_files.traversal import standard_opset

__all__ = [
    "PreparedModel",
    "StatisticsWriter",
    "add_initializer",
    "prepare",
    "unused_name",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedModel:
    """A private copy of a model.

    Attributes:
        model: the copy: functions inlined, layer names unique, statistics not shared.
        layers: every layer, in graph order; those in subgraphs last.
    """

    model: onnx.ModelProto
    layers: tuple[LayerInfo, ...]

    @property
    def eligible(self) -> Mapping[LayerName, LayerInfo]:
        """The layers that can be recalibrated, by name."""
        return {layer.name: layer for layer in self.layers if layer.reason is None}


def prepare(source: onnx.ModelProto) -> PreparedModel:
    """Return a private copy with addressable layers. Modified: no."""
    model = inlined(source)
    _name_layers(model.graph)
    layers = _describe(model)
    prepared = PreparedModel(model=model, layers=layers)
    _own_statistics(model, prepared.eligible)
    return prepared


def _name_layers(graph: onnx.GraphProto) -> None:
    """Write each layer's unique name into its node, so that all later steps use the same name."""
    taken: Counter[str] = Counter()
    for _, node in batchnorm_nodes(graph):
        name = layer_name(node)
        taken[name] += 1
        # ONNX does not require unique node names; a report needs them.
        node.name = name if taken[name] == 1 else f"{name}#{taken[name]}"


def _describe(model: onnx.ModelProto) -> tuple[LayerInfo, ...]:
    index = index_graph(model.graph)
    opset = standard_opset(model)
    ranks = _ranks(model)
    dependent = _input_dependent(index)
    own = [
        layer_info(
            node,
            index,
            opset=opset,
            input_rank=ranks.get(node.input[INPUT]),
            depends_on_input=node.input[INPUT] in dependent,
        )
        for _, node in batchnorm_nodes(model.graph)
    ]
    return (*own, *hidden_layers(model.graph))


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(light_copy(model)).graph
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    }


def _input_dependent(index: GraphIndex) -> set[str]:
    """Return the tensors whose values depend on the model's inputs."""
    dependent = set(index.feeds)
    for node in index.graph.node:
        if any(name in dependent for name in reads(node)):
            dependent.update(node.output)
    return dependent


def _own_statistics(model: onnx.ModelProto, layers: Mapping[LayerName, LayerInfo]) -> None:
    """Give each layer initializers for mean and variance that nothing else reads.

    Exporters merge equal initializers: a freshly initialized network has one running_mean for all
    its layers. Writing to a shared one would change a frozen tensor or another layer.
    """
    graph = model.graph
    index = index_graph(graph)
    readers = Counter(name for node in graph.node for name in reads(node))
    readers.update(value.name for value in graph.output)
    taken = set(index.initializers) | set(index.producer) | {v.name for v in graph.input}
    for _, node in batchnorm_nodes(graph):
        if node.name not in layers:
            continue
        for slot, suffix in ((MEAN, "running_mean"), (VAR, "running_var")):
            tensor = node.input[slot]
            if tensor in index.initializers and readers[tensor] == 1:
                continue
            value = index.constant(tensor)
            if value is not None:
                node.input[slot] = fresh = unused_name(taken, f"{node.name}.{suffix}")
                add_initializer(model, numpy_helper.from_array(value.reshape(-1), fresh))


def add_initializer(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    """Add an initializer, listed among the inputs where the IR version demands it."""
    model.graph.initializer.append(tensor)
    if model.ir_version < MIN_IR_WITHOUT_INPUTS:
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )


def unused_name(taken: set[str], wanted: str) -> str:
    """Return the wanted name, with a number where it is taken, and add it to the taken ones."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name


class StatisticsWriter:
    """Writes statistics into a prepared model, in the model's dtype.

    The tensors of all layers are looked up once, because statistics are committed once per level.
    """

    def __init__(self, prepared: PreparedModel) -> None:
        graph = prepared.model.graph
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._own = {
            name: (tensors.get(mean), tensors.get(var))
            for name, (mean, var) in statistics_tensors(graph).items()
        }

    def write(self, statistics: Mapping[LayerName, RunningStatistics]) -> None:
        """Write the statistics of some layers."""
        for name, new in statistics.items():
            for tensor, value in zip(self._own[name], (new.mean, new.var), strict=True):
                if tensor is not None:
                    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
                    tensor.CopyFrom(numpy_helper.from_array(value.astype(dtype), tensor.name))
