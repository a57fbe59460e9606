"""Run one segment of an optimized graph in onnxruntime, on slices of existing buffers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from bn_ops.engines.onnx.graph import GraphIndex
from bn_ops.engines.onnx.optimized.optimize import OptimizedGraph
from bn_ops.engines.onnx.plan import Segment
from bn_ops.engines.onnx.segment_model import cut_segment
from bn_ops.errors import EngineError
from bn_ops.onnx_files.session import onnxruntime, open_inner, translated
from bn_ops.onnx_files.shared_arena import use_arena

__all__ = ["SegmentRunner"]

Arrays = Mapping[str, NDArray[np.generic]]

_WEIGHTED = frozenset({"Conv", "FusedConv"})


class SegmentRunner:
    """Runs one segment; thread-safe.

    The weights of convolutions are inputs of the segment's model instead of initializers: a session
    then opens in a millisecond, and committing a layer only changes an input array.

    Args:
        graph: the optimized model.
        index: index of its graph.
        segment: the part to run.
        example: inputs of the segment, for their element types and ranks.
        weights: the weights that are fed; may change until `bind` is called.
    """

    def __init__(
        self,
        graph: OptimizedGraph,
        index: GraphIndex,
        segment: Segment,
        example: Arrays,
        weights: Mapping[str, NDArray[np.generic]],
    ) -> None:
        self.segment = segment
        self._weights = weights
        nodes = [index.graph.node[position] for position in segment.nodes]
        self._fed = _fed_weights(nodes, weights)
        kept = {n for node in nodes for n in node.input if n in weights} - set(self._fed)
        small = {n: numpy_helper.from_array(np.asarray(weights[n]), n) for n in kept}
        model = cut_segment(
            graph.model,
            replace(index, initializers=small),
            replace(segment, inputs=(*segment.inputs, *self._fed)),
            {**example, **{name: weights[name] for name in self._fed}},
        )
        self._session, self._beside = _session(model)
        self._values: dict[str, Any] | None = None
        self._local = threading.local()

    def bind(self) -> None:
        """Bind the current weights; called before the first `run`."""
        value = onnxruntime().OrtValue.ortvalue_from_numpy
        self._values = {n: value(np.ascontiguousarray(self._weights[n])) for n in self._fed}

    def try_out(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        """Return the outputs for inputs of any size, allocated by onnxruntime.

        Raises:
            EngineError: onnxruntime failed.
        """
        feeds = {**inputs, **{name: np.asarray(self._weights[name]) for name in self._fed}}
        names = list(self.segment.outputs)
        with translated("running a segment of the optimized model"):
            made = self._session.run(names, feeds)
        if not all(isinstance(array, np.ndarray) for array in made):
            raise EngineError("a segment of the optimized model has outputs that are not tensors")
        return dict(zip(names, made, strict=True))

    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        """Compute the outputs into C-contiguous arrays of the expected shapes.

        Raises:
            EngineError: onnxruntime failed, or an output has another shape.
        """
        binding = self._binding()
        # Those of the last run, of which there may have been more.
        binding.clear_binding_outputs()
        with translated("running a segment of the optimized model"):
            for name, array in inputs.items():
                binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            for name, array in outputs.items():
                binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            self._session.run_with_iobinding(binding)

    def _binding(self) -> Any:
        """Return this thread's binding, in which the weights are already bound."""
        if not hasattr(self._local, "binding"):
            if self._values is None:
                self.bind()
            assert self._values is not None
            self._local.binding = self._session.io_binding()
            for name, value in self._values.items():
                self._local.binding.bind_ortvalue_input(name, value)
        return self._local.binding


def _fed_weights(nodes: Sequence[onnx.NodeProto], weights: Arrays) -> list[str]:
    """Return the names of initializers that only convolutions read, as weight or bias."""
    fed = {n for node in nodes if node.op_type in _WEIGHTED for n in node.input[1:3]}
    other = {n for node in nodes if node.op_type not in _WEIGHTED for n in node.input}
    return sorted((fed - other) & weights.keys())


def _session(model: onnx.ModelProto) -> tuple[Any, Any]:
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Segments run concurrently on different samples, each on one thread, without a barrier per
    # operator.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    use_arena(options)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return open_inner(model, options)
