"""Build a separate model from a segment of a graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from bn_ops.engines.onnx.graph import GraphIndex, reads
from bn_ops.engines.onnx.plan import Segment

__all__ = ["cut_segment"]


def cut_segment(
    model: onnx.ModelProto,
    index: GraphIndex,
    segment: Segment,
    example: Mapping[str, NDArray[np.generic]],
) -> onnx.ModelProto:
    """Return the model of one segment.

    Args:
        model: the prepared model.
        index: index of its graph.
        segment: the segment.
        example: one batch of the segment's inputs, which determines element types and ranks; shape
            inference may not know them.
    """
    nodes = [index.graph.node[position] for position in segment.nodes]
    read = {name for node in nodes for name in reads(node)}
    graph = onnx.helper.make_graph(
        nodes,
        "segment",
        [_value_info(name, example[name]) for name in segment.inputs],
        [onnx.ValueInfoProto(name=name) for name in segment.outputs],
    )
    cut = onnx.helper.make_model(
        graph, opset_imports=list(model.opset_import), ir_version=max(model.ir_version, 4)
    )
    for name in sorted(read & set(index.initializers)):
        # Not `extend`, which serializes what it copies.
        cut.graph.initializer.add().CopyFrom(index.initializers[name])
    return cut


def _value_info(name: str, array: NDArray[np.generic]) -> onnx.ValueInfoProto:
    """Describe a tensor by element type and rank, with every size free."""
    return onnx.helper.make_tensor_value_info(
        name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
    )
