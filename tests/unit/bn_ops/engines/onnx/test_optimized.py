"""The parts of the optimized executor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import helper

from bn_ops.core.moments import join, measure
from bn_ops.core.reduction import reduce_nchwc
from bn_ops.engines.onnx.graph import index_graph
from bn_ops.engines.onnx.optimized.markers import find_layers, mark_layers
from bn_ops.engines.onnx.optimized.optimize import optimize
from bn_ops.engines.onnx.optimized.samplewise import mixes_samples
from bn_ops.engines.onnx.optimized.self_test import block_channels
from bn_ops.engines.onnx.plan import make_plan
from bn_ops.engines.onnx.prepare import prepare
from bn_ops.engines.onnx.rebatch import group_samples
from bn_ops.errors import OptionError
from tests.support.networks import GraphBuilder, images, residual_network


def to_blocks(x: np.ndarray, block: int) -> np.ndarray:
    """Return a tensor in onnxruntime's blocked layout, with channels padded with zeros."""
    n, c, *spatial = x.shape
    padded = np.zeros((n, -(-c // block) * block, *spatial), np.float32)
    padded[:, :c] = x
    rows = padded.reshape(n, -1, block, int(np.prod(spatial)))
    return np.ascontiguousarray(rows.swapaxes(2, 3)).reshape(padded.shape)


@pytest.mark.parametrize("block", [8, 16])
@pytest.mark.parametrize(
    ("shape", "offset"),
    [
        ((3, 24, 13, 17), 0.0),
        ((2, 20, 1, 1), 5.0),  # one position: no variance
        ((4, 16, 3, 5), 1.0),  # fewer positions than the vector width
        ((2, 32, 56, 56), 2.0),
        ((1, 16, 100, 101), -1.0),  # several pieces and a tail
        ((2, 32, 40, 40), 1000.0),
        ((2, 16, 17, 19), 1e4),  # 17 · 19 is not divisible by any vector width
    ],
)
def test_blocked_moments(block: int, shape: tuple[int, ...], offset: float) -> None:
    x = (np.random.default_rng(0).normal(0, 1, shape) + offset).astype(np.float32)
    mean, sq_dev = reduce_nchwc(to_blocks(x, block), block=block, channels=shape[1])
    wide = x.astype(np.float64).reshape(*shape[:2], -1)
    sigma = max(float(wide.std()), 1e-3)
    assert np.abs(mean - wide.mean(axis=2)).max() <= 1e-12 * sigma
    expected = wide.var(axis=2) * wide.shape[2]
    # Both sums are float64; numpy's own variance loses up to 1e-11 at an offset of 10,000 σ.
    np.testing.assert_allclose(sq_dev, expected, rtol=1e-10, atol=1e-9)


def test_constant_blocked_channel() -> None:
    x = np.full((2, 16, 30, 30), 0.1, np.float32)
    assert (reduce_nchwc(x, block=16, channels=16)[1] == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_values_stay_in_their_channel(bad: float) -> None:
    x = np.ones((2, 16, 6, 6), np.float32)
    x[1, 3, 2, 2] = bad
    mean, sq_dev = reduce_nchwc(to_blocks(x, 16), block=16, channels=16)
    finite = np.isfinite(mean) & np.isfinite(sq_dev)
    assert not finite[1, 3]
    assert finite.sum() == finite.size - 1


def test_joined_moments() -> None:
    x = np.random.default_rng(1).normal(2, 3, (5, 7, 6, 6)).astype(np.float32)
    whole = measure(x)
    parts = join([measure(x[:, :3]), measure(x[:, 3:])])
    np.testing.assert_array_equal(parts.mean, whole.mean)
    np.testing.assert_array_equal(parts.sample_sums.ee, whole.sample_sums.ee)
    with pytest.raises(OptionError, match="same samples"):
        join([measure(x[:, :3]), measure(x[:2])])


def test_groups_keep_sample_order() -> None:
    x = images(23, size=2)
    parts = np.split(x, [1, 3, 20])
    groups = list(group_samples(({"x": part} for part in parts), size=8))
    np.testing.assert_array_equal(np.concatenate([g.arrays["x"] for g in groups]), x)
    assert [g.samples for g in groups] == [8, 8, 7]
    assert [b for g in groups for b in g.batches] == [0] + [1] * 2 + [2] * 17 + [3] * 3
    assert [g.completed for g in groups] == [2, 0, 2]


def test_full_group_is_yielded_immediately() -> None:
    asked: list[int] = []

    def stream() -> Iterator[dict[str, np.ndarray]]:
        for number in range(3):
            asked.append(number)
            yield {"x": images(4, size=2)}

    groups = group_samples(stream(), size=8)
    assert next(groups).completed == 2
    assert asked == [0, 1]


def test_groups_have_uniform_shapes() -> None:
    batches = [{"x": images(3, size=4)}, {"x": images(3, size=6)}, {"x": images(1, size=6)}]
    assert [g.arrays["x"].shape for g in group_samples(batches)] == [(3, 3, 4, 4), (4, 3, 6, 6)]


def node(kind: str, *inputs: str, domain: str = "", **attributes: object) -> onnx.NodeProto:
    made = helper.make_node(kind, inputs, ["y"], domain=domain)
    made.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
    return made


WEIGHTS = {
    "row": np.ones((1, 4, 1, 1), np.float32),
    "per_sample": np.ones((2, 4, 1, 1), np.float32),
    "open": np.array([-1, 4, 2, 2]),
    "closed": np.array([2, 4, 4]),
    "first": np.array([0]),
    "last": np.array([-2, -1]),
    "matrix": np.ones((4, 4), np.float32),
}


@pytest.mark.parametrize(
    ("made", "mixes"),
    [
        (node("Relu", "x"), False),
        (node("Add", "x", "row"), False),
        (node("Add", "x", "per_sample"), True),
        (node("Concat", "x", "z", axis=1), False),
        (node("Concat", "x", "z", axis=0), True),
        (node("Concat", "x", "row", axis=1), True),
        (node("Transpose", "x", perm=[0, 2, 1]), False),
        (node("Transpose", "x", perm=[1, 0, 2]), True),
        (node("Transpose", "x"), True),  # reversed axes
        (node("Reshape", "x", "open"), False),
        (node("Reshape", "x", "closed"), True),
        (node("Reshape", "x", "computed"), True),
        (node("ReduceMean", "x", "last"), False),
        (node("ReduceMean", "x", "first"), True),
        (node("ReduceMean", "x"), True),  # over all axes
        (node("Gemm", "x", "matrix"), False),
        (node("Gemm", "x", "matrix", transA=1), True),
        (node("Softmax", "x"), True),  # not on the list
        (node("Flatten", "x"), False),
        (node("Flatten", "x", axis=0), True),
        (node("Conv", "x", "row", domain="com.microsoft.nchwc"), False),
        (node("Attention", "x", domain="com.microsoft"), True),
        (node("Relu", "x", domain="somewhere.else"), True),
    ],
)
def test_samplewise_operators(made: onnx.NodeProto, *, mixes: bool) -> None:
    assert (mixes_samples([made], WEIGHTS) is not None) == mixes


def test_markers_survive_optimization() -> None:
    prepared = prepare(residual_network())
    graph = optimize(prepared, prepared.eligible)
    assert graph is not None
    assert graph.layers.keys() == prepared.eligible.keys()
    for name, layer in graph.layers.items():
        channels = prepared.eligible[name].channels
        assert np.count_nonzero(graph.weights[layer.scale]) == channels
        assert graph.model.graph.node[layer.target.position].input[0] == layer.target.tensor


def test_overwritten_marker_is_not_a_layer() -> None:
    prepared = prepare(residual_network())
    marked = mark_layers(prepared, prepared.eligible)
    graph = marked.model.graph
    small = [t for t in graph.initializer if t.name not in marked.large]
    weights = {**marked.large, **{t.name: onnx.numpy_helper.to_array(t) for t in small}}
    wanted = {name: info.channels or 0 for name, info in prepared.eligible.items()}
    assert find_layers(graph, weights, wanted) is not None
    scaled = next(name for name in weights if name.endswith(".scale"))
    assert find_layers(graph, {**weights, scaled: 2 * weights[scaled]}, wanted) is None


def test_prepared_model_is_not_modified() -> None:
    prepared = prepare(residual_network())
    before = prepared.model.SerializeToString()
    optimize(prepared, prepared.eligible)
    assert prepared.model.SerializeToString() == before


def test_plan_of_concatenated_tensors() -> None:
    g = GraphBuilder()
    a, b = g.conv("x", 3, 8), g.conv("x", 3, 8)
    y = g.bn(g.op("Concat", g.op("Concat", a, b, axis=1), a, axis=1), 24, "bn")
    graph = prepare(g.model([("x", ["N", 3, 8, 8])], [y])).model.graph
    split = make_plan(index_graph(graph), ["bn"], split=True).segments[0]
    assert split.parts["bn"] == (a, b, a)
    assert split.reduced == (a, b)
    whole = make_plan(index_graph(graph), ["bn"]).segments[0]
    assert whole.parts["bn"] == (whole.measured["bn"],)


def test_self_test_passes() -> None:
    # If this fails after an upgrade of onnxruntime, results stay correct but runs become slower:
    # every model uses the graph executor.
    assert block_channels() in {8, 16}
