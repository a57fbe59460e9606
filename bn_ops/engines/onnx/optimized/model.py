"""An optimized graph, planned and ready to run, with its layers' scale and shift."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.layers import LayerInfo
from bn_ops.core.moments import per_sample
from bn_ops.core.reduction import reduce_nchwc
from bn_ops.core.statistics import Float64Array, LayerName, RunningStatistics
from bn_ops.engines.onnx.batchnorm import SCALE, SHIFT, attribute, batchnorm_nodes
from bn_ops.engines.onnx.graph import GraphIndex, index_graph
from bn_ops.engines.onnx.optimized.optimize import OptimizedGraph, optimize
from bn_ops.engines.onnx.optimized.samplewise import mixes_samples
from bn_ops.engines.onnx.optimized.segment_runner import SegmentRunner
from bn_ops.engines.onnx.plan import Plan, Segment, plan_targets, uncut
from bn_ops.engines.onnx.prepare import PreparedModel
from bn_ops.errors import EngineError

if TYPE_CHECKING:
    import onnx

__all__ = ["Kind", "OptimizedModel", "open_optimized"]

_Arrays = Mapping[str, NDArray[np.generic]]
_Signature = tuple[tuple[int, ...], ...]
_Form = tuple[tuple[np.dtype[np.generic], int], ...]

_RANK = 4

# Limits of the convolutions that are computed twice. With more input channels, computing a value
# costs more than writing it to memory and reading it again; see docs/speed.md.
_MAX_RECOMPUTED_INPUTS = 32
_MIN_WIDENING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Shape of one sample of a tensor, and its element type."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    @property
    def nbytes(self) -> int:
        """Bytes of one sample."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class _Affine:
    """γ, β and epsilon of a layer."""

    scale: Float64Array
    shift: Float64Array
    eps: float


class OptimizedModel:
    """The optimized graph of a prepared model, cut at its layers.

    Args:
        graph: the optimized graph.
        block: channels per block of the blocked layout.
        layers: the marked layers' descriptions.
        affine: their γ and β.
        outputs: outputs of the network that `head` returns; none by default.
        unmeasured: layers that the plan does not measure.
    """

    def __init__(
        self,
        graph: OptimizedGraph,
        block: int,
        layers: Mapping[LayerName, LayerInfo],
        affine: Mapping[LayerName, _Affine],
        *,
        outputs: Collection[str] = (),
        unmeasured: Collection[LayerName] = (),
    ) -> None:
        self._layers = layers
        self._graph = graph
        self._outputs = tuple(outputs)
        self._block = block
        self._affine = affine
        self._weights = dict(graph.weights)
        found = graph.layers
        self._index = index_graph(graph.model.graph)
        self.plan: Plan = plan_targets(
            self._index,
            {name: layer.target for name, layer in found.items() if name not in unmeasured},
            split=True,
            outputs=outputs,
            recomputed=_recomputed(self._index, graph),
        )
        self._blocked = {
            part: layers[name].channels if len(parts) == 1 else None
            for segment in self.plan.segments
            for name, parts in segment.parts.items()
            if found[name].blocked
            for part in parts
        }
        self._runners: dict[int, SegmentRunner] = {}
        self._kinds: dict[_Signature, Mapping[str, Kind]] = {}
        self._heads: dict[_Form, SegmentRunner] = {}
        self.commit({n: s for n, i in layers.items() if (s := i.statistics) is not None})

    def commit(self, statistics: Mapping[LayerName, RunningStatistics]) -> None:
        """Write scale γ/√(var + ε) and shift β - mean·scale of the given layers."""
        for name, new in statistics.items():
            layer, affine = self._graph.layers[name], self._affine[name]
            # Rounded to float32, as the deployed model holds them.
            mean, var = (v.astype(np.float32).astype(np.float64) for v in (new.mean, new.var))
            scale = affine.scale / np.sqrt(var + affine.eps)
            self._write(layer.scale, scale)
            self._write(layer.shift, affine.shift - mean * scale)
        self._heads.clear()  # they hold weights that are not those of convolutions

    def _write(self, name: str, values: Float64Array) -> None:
        padded = np.zeros(self._graph.weights[name].shape, np.float32)
        padded.reshape(-1)[: values.size] = values
        self._weights[name] = padded

    def runner(self, level: int) -> SegmentRunner | None:
        """Return the runner of a segment, or None if the segment has no outputs."""
        return self._runners.get(level)

    def close_runner(self, level: int) -> None:
        """Free a segment's session after its last run."""
        self._runners.pop(level, None)

    def head(self, rows: _Arrays) -> _Arrays:
        """Run the nodes after the last layers on the tensors that the head reads, for some samples.

        Raises:
            EngineError: onnxruntime failed, or an output is not a tensor.
        """
        head = self.plan.head
        assert head is not None
        inputs = {name: rows[name] for name in head.inputs}
        if not head.outputs:
            found = inputs
        else:
            found = {**inputs, **self._head(head, inputs).try_out(inputs)}
        return {name: found[name] for name in self._outputs}

    def _head(self, head: Segment, inputs: _Arrays) -> SegmentRunner:
        form = tuple((array.dtype, array.ndim) for array in inputs.values())
        if form not in self._heads:
            self._heads[form] = SegmentRunner(self._graph, self._index, head, inputs, self._weights)
        return self._heads[form]

    def whole(self, example: _Arrays) -> SegmentRunner:
        """Return a runner of the uncut graph, with the current statistics.

        It returns the measured tensors that are not inputs of the model, and the network's outputs.
        """
        measured = {part for parts in self.parts.values() for part in parts}
        segment = uncut(self._index, measured | set(self._outputs))
        inputs = {name: example[name] for name in segment.inputs}
        return SegmentRunner(self._graph, self._index, segment, inputs, self._weights)

    @cached_property
    def parts(self) -> Mapping[LayerName, tuple[str, ...]]:
        """The tensors that make up each layer's input, in the order of channels."""
        return {n: parts for segment in self.plan.segments for n, parts in segment.parts.items()}

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of the network that were asked for."""
        return self._outputs

    def reduce(self, name: str, tensor: NDArray[np.generic]) -> tuple[Float64Array, Float64Array]:
        """Return mean and sum of squared deviations of a measured tensor, by sample and channel."""
        if name not in self._blocked:
            return per_sample(tensor, workers=1)
        channels = self._blocked[name] or tensor.shape[1]
        return reduce_nchwc(tensor, block=self._block, channels=channels)

    def reopened(self, known: Mapping[LayerName, RunningStatistics]) -> OptimizedModel:
        """Return a model for another run, which does not measure layers of known statistics."""
        model = OptimizedModel(
            self._graph,
            self._block,
            self._layers,
            self._affine,
            outputs=self._outputs,
            unmeasured=known,
        )
        model.commit(known)
        return model

    def kinds(self, signature: _Signature) -> Mapping[str, Kind]:
        """Return shapes and element types of the outputs of segments."""
        return self._kinds[signature]

    def try_shapes(self, arrays: _Arrays) -> _Signature:
        """Run a sample of a new shape through every segment to determine the segments' outputs.

        One sample is sufficient: of the operators that `mixes_samples` accepts, only Reshape can
        change the number of rows, by a factor that does not depend on it.

        Raises:
            EngineError: a segment fails, or its outputs have no row per sample.
        """
        signature = tuple(arrays[name].shape[1:] for name in sorted(arrays))
        if signature not in self._kinds:
            held = {name: np.ascontiguousarray(array[:1]) for name, array in arrays.items()}
            kinds: dict[str, Kind] = {}
            for level, segment in enumerate(self.plan.segments):
                for name, array in self._try_segment(level, held).items():
                    if array.shape[:1] != (1,):
                        raise EngineError(f"{name!r} has no row per sample")
                    held[name] = array
                    kinds[name] = Kind(shape=array.shape[1:], dtype=array.dtype)
                for name in segment.released:
                    held.pop(name, None)
            self._kinds[signature] = kinds
        return signature

    def _try_segment(self, level: int, held: _Arrays) -> _Arrays:
        segment = self.plan.segments[level]
        if not segment.outputs:
            return {}
        inputs = {name: held[name] for name in segment.inputs}
        if level not in self._runners:
            self._runners[level] = SegmentRunner(
                self._graph, self._index, segment, inputs, self._weights
            )
        return self._runners[level].try_out(inputs)


def open_optimized(
    prepared: PreparedModel, layers: Collection[LayerName], *, block: int, with_head: bool = False
) -> OptimizedModel | str:
    """Optimize and plan a prepared model.

    Args:
        prepared: the model.
        layers: the layers to measure.
        block: channels per block of the blocked layout.
        with_head: whether the network's outputs are wanted for some samples.

    Returns:
        The model, or the reason why it needs the plain graph executor.

    Raises:
        EngineError: onnxruntime rejects the marked model.
    """
    infos = {layer.name: layer for layer in prepared.layers if layer.name in layers}
    affine = _affine(prepared, infos)
    for name, info in infos.items():
        if info.input_rank != _RANK or name not in affine:
            return f"layer {name!r} is not a float32 layer of rank 4"
    graph = optimize(prepared, layers)
    if graph is None:
        return "the optimizer changed a layer"
    outputs = [output.name for output in prepared.model.graph.output] if with_head else ()
    model = OptimizedModel(graph, block, infos, affine, outputs=outputs)
    nodes = graph.model.graph.node
    used = [nodes[p] for segment in model.plan.segments for p in segment.nodes]
    mixing = mixes_samples(used, graph.weights)
    return model if mixing is None else f"{mixing} may mix samples"


def _recomputed(index: GraphIndex, graph: OptimizedGraph) -> frozenset[str]:
    """Return the inputs of layers that are computed again instead of stored.

    They are the outputs of 1x1 convolutions that widen few channels to many, as in MobileNetV2:
    the largest tensors of such a network, and cheap to compute.
    """
    tensors = {layer.target.tensor for layer in graph.layers.values()}
    found = {
        tensor
        for tensor in tensors & index.producer.keys()
        if _widens(index.graph.node[index.producer[tensor]], graph.weights)
    }
    return frozenset(t for t in found if not found & set(index.graph.node[index.producer[t]].input))


def _widens(node: onnx.NodeProto, weights: _Arrays) -> bool:
    weight = weights.get(node.input[1]) if node.op_type == "Conv" else None
    if weight is None or attribute(node, "group", 1) != 1 or weight.shape[2:] != (1, 1):
        return False
    c_out, c_in = weight.shape[:2]
    return bool(c_in <= _MAX_RECOMPUTED_INPUTS and c_out >= _MIN_WIDENING * c_in)


def _affine(
    prepared: PreparedModel, layers: Mapping[LayerName, LayerInfo]
) -> dict[LayerName, _Affine]:
    """Return γ and β of the layers whose parameters and statistics are float32 constants."""
    index = index_graph(prepared.model.graph)
    found = {}
    for _, node in batchnorm_nodes(prepared.model.graph):
        info = layers.get(node.name)
        values = [index.constant(name) for name in node.input[1:]]
        if info is None or any(v is None or v.dtype != np.float32 for v in values):
            continue
        scale, shift = (values[slot - 1] for slot in (SCALE, SHIFT))
        assert scale is not None
        assert shift is not None
        found[node.name] = _Affine(
            scale=scale.astype(np.float64).reshape(-1),
            shift=shift.astype(np.float64).reshape(-1),
            eps=info.eps,
        )
    return found
