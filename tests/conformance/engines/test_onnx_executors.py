"""Both executors of the ONNX engine agree with each other and with the oracle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from bn_ops.core.estimators import Replace
from bn_ops.core.frontier import commit_layers
from bn_ops.core.options import Budget, Execution, Progress, ProgressCallback, silent
from bn_ops.engines.onnx import OnnxFrontier, prepare
from bn_ops.engines.onnx.optimized import model as optimized_model
from bn_ops.engines.onnx.optimized.model import open_optimized
from bn_ops.engines.onnx.optimized.self_test import block_channels
from bn_ops.engines.onnx.plan import Plan
from bn_ops.errors import CancelledError, LayerNotFiniteError, OptionError, SpillLimitError
from tests.support.networks import GraphBuilder, images, residual_network
from tests.support.oracle import Observed, oracle_statistics, residual

# float32 networks of a dozen layers agree with float64 to about 1e-6; the guarantee is 1e-4.
TIGHT = 1e-5


def measured(
    model: onnx.ModelProto,
    batches: list[np.ndarray],
    executor: Execution,
    *,
    budget: Budget | None = None,
    threads: int | None = None,
    progress: ProgressCallback = silent,
    leave_out: tuple[str, ...] = (),
) -> Observed:
    prepared = prepare(model)
    with OnnxFrontier(
        prepared,
        iter([{"x": batch} for batch in batches]),
        layers=prepared.eligible.keys() - set(leave_out),
        budget=budget or Budget(),
        progress=progress,
        threads=threads,
        executor=executor,
    ) as frontier:
        settled = commit_layers(frontier, prepared.eligible, Replace())
    return {name: (s.statistics.mean, s.statistics.var) for name, s in settled.items()}


def split(x: np.ndarray, size: int) -> list[np.ndarray]:
    return [x[i : i + size] for i in range(0, len(x), size)]


def one_input(g: GraphBuilder, y: str, channels: int = 3) -> onnx.ModelProto:
    return g.model([("x", ["N", channels, "H", "W"])], [y])


def dense() -> onnx.ModelProto:
    """Return a DenseNet: BatchNorm, ReLU, convolution and concatenation, with padded blocks."""
    g = GraphBuilder(1)
    x = g.op("Relu", g.bn(g.conv("x", 3, 32), 32, "stem"))
    channels = 32
    for layer, growth in enumerate((16, 16, 32, 12)):
        y = g.op("Relu", g.bn(x, channels, f"dense{layer}.bn1"))
        y = g.op("Relu", g.bn(g.conv(y, channels, 24, k=1), 24, f"dense{layer}.bn2"))
        x = g.op("Concat", x, g.conv(y, 24, growth), axis=1)
        channels += growth
    return one_input(g, g.bn(x, channels, "last"))


def inverted() -> onnx.ModelProto:
    """Return a MobileNetV2 with odd widths: expansion, depthwise convolution, projection."""
    g = GraphBuilder(2)
    limits = g.tensor(np.array(0, np.float32)), g.tensor(np.array(6, np.float32))
    x = g.op("Clip", g.bn(g.conv("x", 3, 20, stride=2), 20, "stem"), *limits)
    for block, (c_in, c_out) in enumerate([(20, 20), (20, 28), (28, 28)]):
        hidden = 3 * c_in
        y = g.op("Clip", g.bn(g.conv(x, c_in, hidden, k=1), hidden, f"{block}.expand"), *limits)
        y = g.bn(g.conv(y, hidden, hidden, group=hidden), hidden, f"{block}.depthwise")
        y = g.op("Clip", y, *limits)
        y = g.bn(g.conv(y, hidden, c_out, k=1), c_out, f"{block}.project")
        x = g.op("Add", x, y) if c_in == c_out else y
    return one_input(g, x)


def squeezed() -> onnx.ModelProto:
    """Return an EfficientNet: SiLU and squeeze-excite."""
    g = GraphBuilder(3)

    def silu(t: str) -> str:
        return g.op("Mul", t, g.op("Sigmoid", t))

    x = silu(g.bn(g.conv("x", 3, 16), 16, "stem"))
    for block in range(2):
        y = silu(g.bn(g.conv(x, 16, 48, k=1), 48, f"{block}.expand"))
        y = silu(g.bn(g.conv(y, 48, 48, k=5, group=48), 48, f"{block}.depthwise"))
        gate = silu(g.conv(g.op("GlobalAveragePool", y), 48, 4, k=1))
        y = g.op("Mul", y, g.op("Sigmoid", g.conv(gate, 4, 48, k=1)))
        x = g.op("Add", x, g.bn(g.conv(y, 48, 16, k=1), 16, f"{block}.project"))
    return one_input(g, x)


def after_activation() -> onnx.ModelProto:
    """Return convolution, ReLU, BatchNorm and pooling with a branch that joins near the output."""
    g = GraphBuilder(4)
    y = g.bn(g.op("Relu", g.conv("x", 3, 16)), 16, "a")
    shallow = g.bn(g.conv("x", 3, 16, k=1), 16, "shallow")
    y = g.op("MaxPool", y, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    y = g.bn(g.op("LeakyRelu", g.conv(y, 16, 16)), 16, "b")
    y = g.bn(g.conv(y, 16, 16), 16, "c")
    return one_input(g, g.bn(g.op("Relu", g.op("Add", shallow, y)), 16, "d"))


def on_the_input() -> onnx.ModelProto:
    """Return a layer on the input, two layers on one tensor, and widths without blocked layout."""
    g = GraphBuilder(5)
    x = g.bn("x", 3, "input")
    y = g.conv(x, 3, 7)
    left, right = g.bn(y, 7, "left"), g.bn(y, 7, "right")
    y = g.op("Add", g.op("Relu", left), g.op("Tanh", right))
    y = g.bn(g.conv(y, 7, 16), 16, "wide")
    return one_input(g, g.bn(g.conv(g.op("Relu", y), 16, 5), 5, "narrow"))


def shuffled() -> onnx.ModelProto:
    """Return a ShuffleNet: grouped convolutions and a channel shuffle."""
    g = GraphBuilder(6)
    x = g.op("Relu", g.bn(g.conv("x", 3, 16), 16, "stem"))
    y = g.bn(g.conv(x, 16, 32, k=1, group=2), 32, "in")
    y = g.op("Reshape", y, g.tensor(np.array([0, 2, 16, 12, 12])))
    y = g.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    y = g.op("Reshape", y, g.tensor(np.array([-1, 32, 12, 12])))
    y = g.bn(g.conv(y, 32, 16, k=1, group=2), 16, "out")
    return one_input(g, g.bn(g.op("Add", x, y), 16, "sum"))


def upsampled() -> onnx.ModelProto:
    """Return a small U-Net with a transposed convolution."""
    g = GraphBuilder(7)
    top = g.op("Relu", g.bn(g.conv("x", 3, 16), 16, "top"))
    low = g.op("AveragePool", top, kernel_shape=[2, 2], strides=[2, 2])
    low = g.op("Relu", g.bn(g.conv(low, 16, 32), 32, "low"))
    up = g.op("ConvTranspose", low, g.weight(32, 16, 2, 2), strides=[2, 2])
    up = g.op("Relu", g.bn(up, 16, "up"))
    y = g.conv(g.op("Concat", top, up, axis=1), 32, 16)
    return one_input(g, g.bn(y, 16, "joined"))


def scaled_after() -> onnx.ModelProto:
    """Return a layer followed by constant factors, which an optimizer could fuse into it."""
    g = GraphBuilder(8)
    y = g.bn(g.conv("x", 3, 16), 16, "a")
    y = g.op("Mul", y, g.tensor(np.full((1, 16, 1, 1), 1.5, np.float32)))
    y = g.op("Add", y, g.tensor(np.full((16, 1, 1), 0.25, np.float32)))
    return one_input(g, g.bn(g.conv(y, 16, 16), 16, "b"))


def widening() -> onnx.ModelProto:
    """Return a network whose widest tensors are computed twice instead of stored."""
    g = GraphBuilder(10)
    x = g.op("Relu", g.bn(g.conv("x", 3, 16), 16, "stem"))
    y = g.op("Relu", g.bn(g.conv(x, 16, 64, k=1), 64, "expand"))
    y = g.op("Relu", g.bn(g.conv(y, 64, 64, group=64), 64, "depthwise"))
    x = g.op("Add", x, g.bn(g.conv(y, 64, 16, k=1), 16, "project"))
    # Strided, read by two layers, and by an addition one level later.
    wide = g.conv(x, 16, 96, k=1, stride=2)
    left, right = g.bn(wide, 96, "left"), g.bn(wide, 96, "right")
    y = g.op("Mul", g.op("Relu", left), g.op("Sigmoid", right))
    y = g.bn(g.conv(y, 96, 96, group=96), 96, "deep")
    return one_input(g, g.bn(g.conv(g.op("Add", y, wide), 96, 16), 16, "last"))


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "residual": residual_network,
    "dense": dense,
    "inverted": inverted,
    "squeezed": squeezed,
    "after_activation": after_activation,
    "on_the_input": on_the_input,
    "shuffled": shuffled,
    "upsampled": upsampled,
    "scaled_after": scaled_after,
    "widening": widening,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_executors_agree_with_each_other_and_oracle(name: str) -> None:
    model, x = NETWORKS[name](), images(21)
    oracle = oracle_statistics(model, {"x": x})
    plain = measured(model, split(x, 5), "graph")
    optimized = measured(model, split(x, 5), "optimized")
    assert plain.keys() == optimized.keys() == oracle.keys()
    assert residual(plain, oracle) <= TIGHT
    assert residual(optimized, oracle) <= TIGHT
    assert residual(optimized, plain) <= TIGHT


@pytest.mark.parametrize("size", [1, 3, 16, 40])
def test_invariance_under_splits(size: int) -> None:
    x = images(40)
    model = inverted()
    assert residual(
        measured(model, split(x, size), "optimized"), oracle_statistics(model, {"x": x})
    ) <= TIGHT  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_thread_count_changes_no_bit(threads: int) -> None:
    model, batches = dense(), split(images(37), 9)
    one = measured(model, batches, "optimized", threads=1)
    many = measured(model, batches, "optimized", threads=threads)
    for name, (mean, var) in one.items():
        np.testing.assert_array_equal(many[name][0], mean)
        np.testing.assert_array_equal(many[name][1], var)


def test_recomputed_tensors_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batches = widening(), split(images(37), 9)
    prepared = prepare(network)

    def plan() -> Plan:
        block = block_channels()
        assert block is not None
        opened = open_optimized(prepared, prepared.eligible, block=block)
        assert not isinstance(opened, str)
        return opened.plan

    def runs(plan: Plan) -> dict[int, int]:
        return Counter(node for segment in plan.segments for node in segment.nodes)

    twice = plan()
    found = measured(network, batches, "optimized")
    monkeypatch.setattr(optimized_model, "_MAX_RECOMPUTED_INPUTS", 0)
    once = plan()
    stored = measured(network, batches, "optimized")
    # The convolutions before `expand`, and before `left` and `right`, whose output is read later.
    assert sorted(runs(twice).values())[-3:] == [1, 2, 3]
    assert set(runs(once).values()) == {1}
    assert len(once.stored - twice.stored) == 2
    assert len(twice.stored - once.stored) == 1  # what the second convolution reads
    for name, (mean, var) in stored.items():
        np.testing.assert_array_equal(found[name][0], mean)
        np.testing.assert_array_equal(found[name][1], var)


@pytest.mark.parametrize("memory", [0, 200_000, 1 << 30])
@pytest.mark.parametrize("network", [squeezed, widening])
def test_spilling_changes_no_bit(
    network: Callable[[], onnx.ModelProto], memory: int, tmp_path: Path
) -> None:
    model, batches = network(), split(images(24), 5)
    budget = Budget(memory_bytes=memory, spill_folder=tmp_path)
    spilled = measured(model, batches, "optimized", budget=budget)
    plain = measured(model, batches, "optimized")
    for name, (mean, var) in plain.items():
        np.testing.assert_array_equal(spilled[name][0], mean)
        np.testing.assert_array_equal(spilled[name][1], var)
    assert list(tmp_path.iterdir()) == []


def test_insufficient_budget(tmp_path: Path) -> None:
    budget = Budget(memory_bytes=10_000, spill_bytes=10_000, spill_folder=tmp_path)
    with pytest.raises(SpillLimitError):
        measured(residual_network(), split(images(48), 16), "optimized", budget=budget)
    assert list(tmp_path.iterdir()) == []


def test_stream_of_different_sizes() -> None:
    small, large = images(9), images(7, size=18, seed=2)
    model = residual_network()
    batches = [small[:4], large[:2], small[4:], large[2:]]
    plain = measured(model, batches, "graph")
    assert residual(measured(model, batches, "optimized"), plain) <= TIGHT


def test_stream_that_reuses_its_array() -> None:
    x = images(24)
    model = residual_network()
    prepared = prepare(model)
    shared = np.empty_like(x[:6])

    def stream() -> object:
        for part in split(x, 6):
            shared[:] = part
            yield {"x": shared}

    with OnnxFrontier(
        prepared,
        stream(),  # type: ignore[arg-type]  # a generator of batches
        layers=prepared.eligible,
        budget=Budget(),
        progress=silent,
        executor="optimized",
    ) as frontier:
        settled = commit_layers(frontier, prepared.eligible, Replace())
    found = {name: (s.statistics.mean, s.statistics.var) for name, s in settled.items()}
    assert residual(found, oracle_statistics(model, {"x": x})) <= TIGHT


def test_excluded_layers_in_both_executors() -> None:
    model, x = inverted(), images(20)
    left_out = ("0.expand", "1.project")
    oracle = oracle_statistics(model, {"x": x}, frozen=left_out)
    expected = {name: value for name, value in oracle.items() if name not in left_out}
    for executor in ("graph", "optimized"):
        found = measured(model, [x], executor, leave_out=left_out)
        assert found.keys() == expected.keys()
        assert residual(found, expected) <= TIGHT


def test_precision_with_large_mean() -> None:
    g = GraphBuilder(9)
    far = g.op("Add", g.conv("x", 3, 16), g.tensor(np.full((1, 16, 1, 1), 3000, np.float32)))
    model, x = one_input(g, g.bn(far, 16, "bn")), images(12, size=32)
    plain = measured(model, [x], "graph")["bn"]
    optimized = measured(model, [x], "optimized")["bn"]
    assert (np.abs(plain[0]) > 500 * np.sqrt(plain[1])).all()
    np.testing.assert_allclose(optimized[1], plain[1], rtol=1e-6)


def test_overflow_names_layer_and_batch() -> None:
    g = GraphBuilder()
    steep = g.op("Mul", g.bn(g.conv("x", 3, 16), 16, "first"), g.tensor(np.array(40, np.float32)))
    model = one_input(g, g.bn(g.op("Exp", steep), 16, "second"))
    quiet = np.full((2, 3, 4, 4), 1e-3, np.float32)
    with pytest.raises(LayerNotFiniteError, match="'second'") as caught:
        measured(model, [quiet, quiet, images(2, size=4)], "optimized")
    assert caught.value.details() == {"layer": "second", "batch": 2}


def test_progress_counts_batches_and_cancels() -> None:
    seen: list[Progress] = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if progress.phase == "measuring" and progress.done == 3:
            raise CancelledError("enough")

    with pytest.raises(CancelledError, match="enough"):
        measured(residual_network(), split(images(30), 7), "optimized", progress=stop)
    assert [p.done for p in seen if p.phase == "reading"] == [1, 2, 3, 4, 5]
    assert [p.done for p in seen if p.phase == "measuring"] == [1, 2, 3]
    assert {p.total for p in seen if p.phase == "measuring"} == {20}


def mean_over_samples() -> onnx.ModelProto:
    g = GraphBuilder()
    y = g.conv("x", 3, 16)
    y = g.op("Sub", y, g.op("ReduceMean", y, axes=[0], keepdims=1))
    return one_input(g, g.bn(y, 16, "bn"))


def three_dimensional() -> onnx.ModelProto:
    g = GraphBuilder()
    y = g.bn(g.op("Conv", "x", g.weight(8, 3, 3)), 8, "bn")
    return g.model([("x", ["N", 3, "L"])], [y])


def fixed_batch() -> onnx.ModelProto:
    model = residual_network()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    return model


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (mean_over_samples, "may mix samples"),
        (three_dimensional, "rank 4"),
        (fixed_batch, "fixes its number"),
    ],
)
def test_fallback_to_graph_executor(network: Callable[[], onnx.ModelProto], says: str) -> None:
    model = network()
    rank = len(model.graph.input[0].type.tensor_type.shape.dim)
    x = images(8)[:, :, 0] if rank == 3 else images(8)
    with pytest.raises(OptionError, match=says):
        measured(model, [x], "optimized")
    plain, auto = measured(model, [x], "graph"), measured(model, [x], "auto")
    for name, (mean, var) in plain.items():
        np.testing.assert_array_equal(auto[name][0], mean)
        np.testing.assert_array_equal(auto[name][1], var)
