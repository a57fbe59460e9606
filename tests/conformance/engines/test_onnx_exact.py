"""The ONNX engine against an independent float64 oracle: guarantees P1, P2, P3 and P6."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import bn_ops
from bn_ops.errors import (
    BatchNotFiniteError,
    BatchShapeError,
    CancelledError,
    LayerNotFiniteError,
    ModelUnsupportedError,
    ModelWithoutBatchNormError,
    OptionError,
    SpillLimitError,
    StreamEmptyError,
)
from tests.support.networks import GraphBuilder, images, residual_network
from tests.support.oracle import (
    Observed,
    observed_statistics,
    oracle_statistics,
    residual,
    stored_statistics,
)

# float32 networks of a dozen layers agree with float64 to about 1e-6; the guarantee is 1e-4.
TIGHT = 1e-5


def split(x: np.ndarray, size: int) -> list[np.ndarray]:
    return [x[i : i + size] for i in range(0, len(x), size)]


def statistics(result: bn_ops.Recalibration[onnx.ModelProto]) -> Observed:
    return {name: (s.mean, s.var) for name, s in result.statistics.items()}


@pytest.mark.parametrize("size", [1, 7, 50])
def test_statistics_match_oracle(size: int) -> None:
    x = images(50)
    result = bn_ops.recalibrate(residual_network(), split(x, size))
    assert residual(statistics(result), oracle_statistics(result.model, {"x": x})) <= TIGHT
    stored, seen = stored_statistics(result.model), observed_statistics(result.model, {"x": x})
    assert residual(stored, seen) <= TIGHT
    assert len(result.statistics) == 6


def test_oracle_detects_source_statistics() -> None:
    x = images(50)
    model = residual_network()
    assert residual(stored_statistics(model), observed_statistics(model, {"x": x})) > 0.5


def test_invariance_under_order_and_splits() -> None:
    x = images(40)
    shuffled = x[np.random.default_rng(5).permutation(len(x))]
    ragged = np.split(x, [1, 2, 9, 33])
    one = bn_ops.recalibrate(residual_network(), [x])
    for batches in (split(x, 1), split(shuffled, 8), ragged, split(x[::-1].copy(), 13)):
        other = bn_ops.recalibrate(residual_network(), batches)
        assert residual(statistics(other), statistics(one)) <= TIGHT


def test_determinism() -> None:
    first, second = (bn_ops.recalibrate(residual_network(), split(images(20), 6)) for _ in range(2))
    assert first.model.SerializeToString() == second.model.SerializeToString()


def test_only_running_statistics_change() -> None:
    model = residual_network()
    before = model.SerializeToString()
    result = bn_ops.recalibrate(model, [images(8)])
    assert model.SerializeToString() == before  # the caller's model is not modified
    old = {t.name: t.SerializeToString() for t in model.graph.initializer}
    new = {t.name: t.SerializeToString() for t in result.model.graph.initializer}
    changed = {name for name in old if old[name] != new[name]}
    own = {
        n.input[i] for n in model.graph.node if n.op_type == "BatchNormalization" for i in (3, 4)
    }
    assert changed == own
    assert list(result.model.graph.node) == list(model.graph.node)
    assert result.report.frozen.unchanged
    assert set(result.report.frozen.tensors) == (set(old) - own) | {"(graph structure)"}


def test_excluded_layers_keep_their_statistics() -> None:
    x = images(30)
    model = residual_network()
    result = bn_ops.recalibrate(model, [x], layers=["!block0.*"])
    left_out = {"block0.bn1", "block0.bn2"}
    oracle = oracle_statistics(model, {"x": x}, frozen=left_out)
    expected = {name: value for name, value in oracle.items() if name not in left_out}
    assert result.statistics.keys() == expected.keys()
    assert residual(statistics(result), expected) <= TIGHT
    stored, source = stored_statistics(result.model), stored_statistics(model)
    for name in left_out:
        np.testing.assert_array_equal(stored[name], source[name])
    assert {r.name for r in result.report.layers if r.status == "excluded"} == left_out


@pytest.mark.parametrize("memory", [0, 20_000, 10_000_000])
def test_spilling_changes_no_bit(memory: int, tmp_path: Path) -> None:
    batches = split(images(24), 5)
    budget = bn_ops.Budget(memory_bytes=memory, spill_folder=tmp_path)
    spilled = bn_ops.recalibrate(residual_network(), batches, budget=budget)
    plain = bn_ops.recalibrate(residual_network(), batches)
    assert spilled.model.SerializeToString() == plain.model.SerializeToString()
    assert list(tmp_path.iterdir()) == []


def test_insufficient_budget(tmp_path: Path) -> None:
    budget = bn_ops.Budget(memory_bytes=10_000, spill_bytes=10_000, spill_folder=tmp_path)
    with pytest.raises(SpillLimitError, match="raise the budget"):
        bn_ops.recalibrate(residual_network(), [images(24)], budget=budget)
    assert list(tmp_path.iterdir()) == []


def test_unusable_spill_folder(tmp_path: Path) -> None:
    budget = bn_ops.Budget(memory_bytes=0, spill_folder=tmp_path / "missing")
    with pytest.raises(SpillLimitError, match="cannot create a folder"):
        bn_ops.recalibrate(residual_network(), [images(4)], budget=budget)


def test_empty_stream() -> None:
    with pytest.raises(StreamEmptyError):
        bn_ops.recalibrate(residual_network(), [])


def test_invalid_batch_is_named() -> None:
    bad = images(4)
    bad[2, 1, 3, 3] = np.nan
    model = residual_network()
    before = model.SerializeToString()
    with pytest.raises(BatchNotFiniteError) as caught:
        bn_ops.recalibrate(model, [images(4), bad, images(4)])
    assert caught.value.details() == {"batch": 1, "input": "x"}
    assert model.SerializeToString() == before


def test_overflow_names_layer_and_batch() -> None:
    g = GraphBuilder()
    steep = g.op("Mul", g.bn("x", 3, "first"), g.tensor(np.array(100, np.float32)))
    y = g.bn(g.op("Exp", steep), 3, "second")
    model = g.model([("x", ["N", 3, 4, 4])], [y])
    quiet, loud = np.zeros((2, 3, 4, 4), np.float32), images(2, size=4)
    with pytest.raises(LayerNotFiniteError, match="'second'") as caught:
        bn_ops.recalibrate(model, [quiet, loud])
    assert caught.value.details() == {"layer": "second", "batch": 1}


def test_progress_callback_cancels_the_run() -> None:
    seen: list[bn_ops.Progress] = []

    def stop(progress: bn_ops.Progress) -> None:
        seen.append(progress)
        if progress.phase == "measuring":
            raise CancelledError("enough")

    with pytest.raises(CancelledError, match="enough"):
        bn_ops.recalibrate(residual_network(), split(images(12), 4), progress=stop)
    assert [p.done for p in seen if p.phase == "reading"] == [1, 2, 3]
    assert seen[-1] == bn_ops.Progress(phase="measuring", done=1, total=12)


def test_single_sample_with_single_position() -> None:
    g = GraphBuilder()
    y = g.bn(g.op("Gemm", "x", g.weight(5, 4), transB=1), 5, "bn")
    model = g.model([("x", ["N", 4])], [y])
    x = np.random.default_rng(0).normal(2, 3, (9, 4)).astype(np.float32)
    result = bn_ops.recalibrate(model, split(x, 1))
    assert residual(statistics(result), oracle_statistics(model, {"x": x})) <= TIGHT


def test_layer_on_input_and_layers_on_same_tensor() -> None:
    g = GraphBuilder()
    left, right = g.bn("x", 3, "left"), g.bn("x", 3, "right")
    y = g.bn(g.op("Add", g.op("Relu", left), right), 3, "last")
    model = g.model([("x", ["N", 3, 4, 4])], [y])
    x = images(10, size=4)
    result = bn_ops.recalibrate(model, split(x, 3))
    assert residual(statistics(result), oracle_statistics(model, {"x": x})) <= TIGHT
    assert list(result.statistics) == ["left", "right", "last"]


def test_input_of_a_late_segment() -> None:
    g = GraphBuilder()
    a = g.bn(g.conv("x", 3, 4), 4, "a")
    b = g.bn(g.conv(a, 4, 4), 4, "b")
    y = g.bn(g.op("Concat", b, "late", axis=1), 6, "c")
    model = g.model([("x", ["N", 3, 8, 8]), ("late", ["N", 2, 8, 8])], [y])
    x, late = images(10, size=8), images(10, channels=2, size=8, seed=9)
    feeds = {"x": x, "late": late}
    batches = [{k: v[i : i + 4] for k, v in feeds.items()} for i in range(0, 10, 4)]
    result = bn_ops.recalibrate(model, batches, budget=bn_ops.Budget(memory_bytes=3000))
    assert residual(statistics(result), oracle_statistics(model, feeds)) <= TIGHT


@pytest.mark.parametrize(("size", "samples"), [(1, 5), (4, 12), (4, 10), (8, 3)])
def test_fixed_batch_axis_with_any_split(size: int, samples: int) -> None:
    free, fixed = residual_network(), residual_network()
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    x = images(samples)
    one = bn_ops.recalibrate(free, [x])
    other = bn_ops.recalibrate(fixed, split(x, 3))
    assert residual(statistics(other), statistics(one)) <= TIGHT
    assert other.report.stream.samples == samples


def test_fixed_batch_axis_with_mixed_samples() -> None:
    g = GraphBuilder()
    merged = g.op("Reshape", "x", g.tensor(np.array([1, 12, 4, 4])))
    model = g.model([("x", [4, 3, 4, 4])], [g.bn(merged, 12, "bn")])
    with pytest.raises(ModelUnsupportedError, match="multiple of 4"):
        bn_ops.recalibrate(model, [images(6, size=4)])


def test_shared_statistics_are_separated() -> None:
    model = residual_network()
    bns = [n for n in model.graph.node if n.op_type == "BatchNormalization"]
    for node in bns[
        :3
    ]:  # three layers of the same width, as an exporter with deduplication writes them
        node.input[3], node.input[4] = bns[0].input[3], bns[0].input[4]
    x = images(20)
    result = bn_ops.recalibrate(model, [x])
    assert residual(stored_statistics(result.model), oracle_statistics(model, {"x": x})) <= TIGHT


def test_statistics_with_another_reader_are_copied() -> None:
    g = GraphBuilder()
    y = g.bn(g.conv("x", 3, 4), 4, "bn")
    mean = g.nodes[-1].input[3]
    y = g.op("Add", y, g.op("Reshape", mean, g.tensor(np.array([1, 4, 1, 1]))))
    model = g.model([("x", ["N", 3, 8, 8])], [y])
    result = bn_ops.recalibrate(model, [images(8, size=8)])
    old, new = (
        next(t for t in m.graph.initializer if t.name == mean) for m in (model, result.model)
    )
    assert old == new
    assert residual(stored_statistics(result.model), statistics(result)) < 1e-6


def test_parameters_in_constant_nodes() -> None:
    model = residual_network()
    stored = {t.name: t for t in model.graph.initializer}
    names = [i for n in model.graph.node if n.op_type == "BatchNormalization" for i in n.input[1:]]
    constants = [helper.make_node("Constant", [], [n], value=stored[n]) for n in names]
    kept = [t for t in model.graph.initializer if t.name not in names]
    nodes = [*constants, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    x = images(12)
    result = bn_ops.recalibrate(model, [x])
    plain = bn_ops.recalibrate(residual_network(), [x])
    for name, s in plain.statistics.items():
        np.testing.assert_array_equal(result.statistics[name].mean, s.mean)


def test_layer_names_are_unique() -> None:
    g = GraphBuilder()
    first = g.bn(g.conv("x", 3, 4), 4)
    y = g.bn(g.conv(g.bn(g.conv(first, 4, 4), 4, "bn"), 4, 4), 4, "bn")
    model = g.model([("x", ["N", 3, 8, 8])], [y])
    assert [layer.name for layer in bn_ops.inspect(model)] == [first, "bn", "bn#2"]
    assert list(bn_ops.recalibrate(model, [images(4, size=8)]).statistics) == [first, "bn", "bn#2"]


def test_training_mode_layer_is_reported_and_kept() -> None:
    g = GraphBuilder()
    y = g.bn(g.conv("x", 3, 4), 4, "plain")
    y = g.bn(g.conv(y, 4, 4), 4, "trains")
    g.nodes[-1].attribute.append(helper.make_attribute("training_mode", 1))
    g.nodes[-1].output.extend(["running_mean_out", "running_var_out"])
    model = g.model([("x", ["N", 3, 8, 8])], [y])
    plain, trains = bn_ops.inspect(model)
    assert plain.reason is None
    assert trains.reason is not None
    assert "training_mode=1" in trains.reason


def test_layer_inside_if_body_is_reported_and_kept() -> None:
    inner = GraphBuilder(3)
    inner_out = inner.bn("h", 4, "inner")
    body = helper.make_graph(
        inner.nodes, "then", [], [onnx.ValueInfoProto(name=inner_out)], inner.tensors
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["h"], ["same"])],
        "else",
        [],
        [onnx.ValueInfoProto(name="same")],
    )
    g = GraphBuilder(4)
    h = g.bn(g.conv("x", 3, 4), 4, "outer")
    g.nodes.append(helper.make_node("Identity", [h], ["h"]))
    branch = g.op("If", g.tensor(np.array([1]).astype(bool).reshape(())))
    g.nodes[-1].attribute.extend(
        [helper.make_attribute("then_branch", body), helper.make_attribute("else_branch", other)]
    )
    y = g.bn(g.conv(branch, 4, 4), 4, "after")
    model = g.model([("x", ["N", 3, 8, 8])], [y])
    layers = {layer.name: layer for layer in bn_ops.inspect(model)}
    assert "body of If" in (layers["inner"].reason or "")
    result = bn_ops.recalibrate(model, split(images(9, size=8), 2))
    assert set(result.statistics) == {"outer", "after"}


def test_statistics_as_graph_inputs() -> None:
    g = GraphBuilder()
    y = g.op(
        "BatchNormalization", "x", g.tensor(np.ones(3, np.float32)),
        g.tensor(np.zeros(3, np.float32)), "mean", "var", name="bn",
    )  # fmt: skip
    model = g.model([("x", ["N", 3, 4, 4]), ("mean", [3]), ("var", [3])], [y])
    with pytest.raises(ModelWithoutBatchNormError, match="computed or supplied at run time"):
        bn_ops.recalibrate(model, [images(2, size=4)])


@pytest.mark.parametrize("opset", [9, 11, 13, 14, 15, 17, 21])
def test_operator_sets_from_9(opset: int) -> None:
    model = residual_network()
    model.opset_import[0].version = opset
    onnx.checker.check_model(model)
    x = images(10)
    result = bn_ops.recalibrate(model, split(x, 4))
    assert residual(statistics(result), oracle_statistics(model, {"x": x})) <= TIGHT


def test_layers_in_local_functions() -> None:
    g = GraphBuilder()
    w = numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "w")
    vectors = [
        numpy_helper.from_array(np.full(3, v, np.float32), n)
        for n, v in zip("abcd", (1, 0, 0, 1), strict=True)
    ]
    block = helper.make_function(
        "local", "Block", ["x", "w", "a", "b", "c", "d"], ["y"],
        [
            helper.make_node("Conv", ["x", "w"], ["h"]),
            helper.make_node("BatchNormalization", ["h", "a", "b", "c", "d"], ["y"], name="bn"),
        ],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Block", ["x", "w", "a", "b", "c", "d"], ["y"], domain="local"),
            helper.make_node("Block", ["y", "w", "a", "b", "c", "d"], ["z"], domain="local"),
        ],
        "calls",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["N", 3, 4, 4])],
        [w, *vectors],
    )
    del g
    model = helper.make_model(
        graph,
        functions=[block],
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("local", 1)],
        ir_version=8,
    )
    x = images(12, size=4)
    result = bn_ops.recalibrate(model, [x])
    assert len(result.statistics) == 2
    stored, seen = stored_statistics(result.model), observed_statistics(result.model, {"x": x})
    assert residual(stored, seen) <= TIGHT


def test_float16_network() -> None:
    g = GraphBuilder(dtype=np.float16)
    y = g.bn(g.op("Relu", g.bn(g.conv("x", 3, 6), 6, "a")), 6, "b")
    model = g.model([("x", ["N", 3, 8, 8])], [y])
    x = images(20, size=8).astype(np.float16)
    result = bn_ops.recalibrate(model, split(x, 6))
    # float16 activations have 11 significant bits.
    assert residual(statistics(result), oracle_statistics(model, {"x": x})) <= 3e-3


def test_dead_channel_keeps_its_variance() -> None:
    model = residual_network()
    stem = next(n for n in model.graph.node if n.op_type == "Conv")
    weight = next(t for t in model.graph.initializer if t.name == stem.input[1])
    values = numpy_helper.to_array(weight).copy()
    values[2] = 0.0
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    result = bn_ops.recalibrate(model, [images(16)])
    entry = next(r for r in result.report.layers if r.name == "stem.bn")
    assert entry.silenced_channels == (2,)
    kept = stored_statistics(model)["stem.bn"][1][2]
    assert result.statistics["stem.bn"].var[2] == kept
    assert any("lost all variance" in warning for warning in result.report.warnings)


def test_mismatched_batches() -> None:
    with pytest.raises(BatchShapeError, match="size 1 on axis 1"):
        bn_ops.recalibrate(residual_network(), [images(2, channels=1)])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "magic"}, "unknown method"),
        ({"engine": "tpu"}, "unknown engine"),
        ({"engine": "torch"}, "needs an nn.Module"),
        ({"adopt_untracked": True}, "applies to an nn.Module"),
        ({"call": print, "shared_passes": 3}, "call, shared_passes"),
    ],
)
def test_invalid_options(options: dict[str, object], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        bn_ops.recalibrate(residual_network(), [images(2)], **options)  # type: ignore[call-overload]
