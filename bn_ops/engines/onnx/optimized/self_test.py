"""Check once per process that onnxruntime optimizes as the optimized executor expects.

The optimized executor depends on how onnxruntime writes its blocked (NCHWc) layout. A tiny network
with everything it relies on (padded channels, an addition and an activation fused into a layer, a
layer before its convolution) runs through both executors. If anything differs or fails, every model
uses the plain graph executor.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bn_ops.core.moments import Moments
from bn_ops.core.options import Budget, silent
from bn_ops.core.signature import Batch
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.engines.onnx.graph_executor import GraphExecutor
from bn_ops.engines.onnx.optimized.executor import OptimizedGraphExecutor
from bn_ops.engines.onnx.optimized.model import OptimizedModel, open_optimized
from bn_ops.engines.onnx.optimized.optimize import optimize
from bn_ops.engines.onnx.prepare import PreparedModel, StatisticsWriter, prepare
from bn_ops.engines.onnx.tensor_store import TensorStore
from bn_ops.errors import BnOpsError

__all__ = ["block_channels", "padded_block", "passes"]

# float32 networks of four layers agree to about 1e-6.
_TOLERANCE = 1e-5

_CHANNELS = 20

_FLOAT = onnx.TensorProto.FLOAT


@cache
def block_channels() -> int | None:
    """Return the number of channels per block, or None if the optimized executor is not usable."""
    block = padded_block()
    return block if block is not None and passes(block) else None


def padded_block() -> int | None:
    """Return the number of channels per block that onnxruntime pads to, or None if it does not."""
    prepared = _network()
    try:
        graph = optimize(prepared, prepared.eligible)
    except BnOpsError:
        return None
    if graph is None or not all(layer.blocked for layer in graph.layers.values()):
        return None
    # 20 channels are padded to 24 in blocks of 8, and to 32 in blocks of 16.
    padded = {graph.weights[layer.shift].size for layer in graph.layers.values()}
    return {24: 8, 32: 16}.get(padded.pop()) if len(padded) == 1 else None


def passes(block: int) -> bool:
    """Return whether both executors measure the same moments of the tiny network."""
    try:
        plain, optimized = _measured(None), _measured(block)
    except BnOpsError:
        return False
    return plain.keys() == optimized.keys() and all(
        _near(plain[name], optimized[name]) for name in plain
    )


def _near(one: Moments, other: Moments) -> bool:
    var, sigma = one.var_population, np.sqrt(one.var_population)
    return bool(
        (np.abs(one.mean - other.mean) <= _TOLERANCE * sigma).all()
        and (np.abs(other.var_population - var) <= _TOLERANCE * var).all()
    )


def _measured(block: int | None) -> dict[LayerName, Moments]:
    prepared = _network()
    batches = _batches()
    found: dict[LayerName, Moments] = {}
    with TensorStore(Budget()) as store:
        executor = _executor(prepared, batches, store, block)
        while moments := executor.advance():
            found.update({name: tree.total() for name, tree in moments.items()})
            statistics = {
                name: RunningStatistics(mean=found[name].mean, var=found[name].var_population)
                for name in moments
            }
            StatisticsWriter(prepared).write(statistics)
            executor.commit(statistics)
        executor.close()
    return found


def _executor(
    prepared: PreparedModel, batches: list[Batch], store: TensorStore, block: int | None
) -> GraphExecutor | OptimizedGraphExecutor:
    if block is None:
        return GraphExecutor(
            prepared, batches, layers=prepared.eligible, store=store, progress=silent, threads=1
        )
    model = open_optimized(prepared, prepared.eligible, block=block)
    if not isinstance(model, OptimizedModel):
        raise BnOpsError(model)
    return OptimizedGraphExecutor(model, batches, store=store, progress=silent, threads=1)


def _batches() -> list[Batch]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(0.5, 1, (n, 3, 9, 7)).astype(np.float32)} for n in (3, 2)]


@cache
def _proto() -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    tensors: list[onnx.TensorProto] = []

    def weight(name: str, value: np.ndarray) -> str:
        tensors.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def conv(x: str, y: str, c_in: int) -> onnx.NodeProto:
        value = rng.normal(0, 1 / np.sqrt(9 * c_in), (_CHANNELS, c_in, 3, 3))
        return helper.make_node("Conv", [x, weight(f"{y}.w", value)], [y], pads=[1, 1, 1, 1])

    def layer(x: str, y: str) -> onnx.NodeProto:
        ends = {"a": (0.5, 1.5), "b": (-1, 1), "m": (-1, 1), "v": (0.5, 2)}
        own = [weight(f"{y}.{n}", rng.uniform(*lim, _CHANNELS)) for n, lim in ends.items()]
        return helper.make_node("BatchNormalization", [x, *own], [y], name=y)

    nodes = [
        conv("x", "c0", 3), layer("c0", "l0"), helper.make_node("Relu", ["l0"], ["r0"]),
        conv("r0", "c1", _CHANNELS), layer("c1", "l1"),
        helper.make_node("Add", ["l1", "r0"], ["s"]), helper.make_node("Relu", ["s"], ["r1"]),
        layer("r1", "l2"), conv("l2", "c2", _CHANNELS), layer("c2", "l3"),
    ]  # fmt: skip
    shape: list[str | int | None] = ["N", _CHANNELS, "H", "W"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", _FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("l3", _FLOAT, shape)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _network() -> PreparedModel:
    return prepare(_proto())
