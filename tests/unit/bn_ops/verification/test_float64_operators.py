"""The fast float64 operators against onnx's reference loops, and unsupported models."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from bn_ops.verification.float64 import Float64Model, NotExactError, operators
from bn_ops.verification.float64.operators import Window, convolve
from tests.conformance.fold.building import Array, Graph

TOLERANCE = 1e-12  # the same float64 terms in a different summation order

POOLS: list[dict[str, Any]] = [
    {"kernel_shape": [2, 2]},
    {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]},
    {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"},
]

CONVOLUTIONS: list[dict[str, Any]] = [
    {},
    {"strides": [2, 1], "pads": [1, 0, 2, 1]},
    {"dilations": [2, 1], "pads": [1, 1, 1, 1]},
    {"group": 2},
    {"group": 4},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "VALID"},
]

TRANSPOSED: list[dict[str, Any]] = [
    {},
    {"strides": [2, 2], "pads": [1, 0, 1, 1], "output_padding": [1, 0]},
    {"dilations": [2, 1]},
]


def _model(op: str, weights: list[Array], **attrs: Any) -> onnx.ModelProto:
    graph = Graph(op, dtype="float64", opset=17)
    x = graph.input("x", (2, 4, 9, 8))
    graph.output(graph.add(op, x, *(graph.store(w) for w in weights), **attrs), (None,) * 4)
    return graph.model()


def _agrees(model: onnx.ModelProto, shape: tuple[int, ...] = (2, 4, 9, 8)) -> None:
    batch = {"x": np.random.default_rng(0).standard_normal(shape)}
    names = [model.graph.output[0].name]
    ours: Array = Float64Model(model).run(names, batch)[0]
    theirs = np.asarray(next(iter(ReferenceEvaluator(model).run(names, batch))))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


@pytest.mark.parametrize("kernels", [4, 8, 20, 80])
@pytest.mark.parametrize("attrs", CONVOLUTIONS, ids=str)
def test_convolution(attrs: dict[str, Any], kernels: int) -> None:
    random = np.random.default_rng(1)
    weight = random.standard_normal((kernels, 4 // attrs.get("group", 1), 3, 2))
    _agrees(_model("Conv", [weight, np.arange(float(kernels))], **attrs))


def test_3d_convolution() -> None:
    graph = Graph("volume", dtype="float64")
    x, weight = graph.input("x", (1, 2, 3, 4, 5)), graph.array(3, 2, 2, 2, 2)
    graph.output(graph.add("Conv", x, graph.store(weight)))
    values = np.random.default_rng(0).standard_normal((1, 2, 3, 4, 5))
    model = graph.model()
    ours: Array = Float64Model(model).run([model.graph.output[0].name], {"x": values})[0]
    expected = np.zeros((1, 3, 2, 3, 4))
    for i, j, k in np.ndindex(2, 3, 4):
        seen = values[0, :, i : i + 2, j : j + 2, k : k + 2]
        expected[0, :, i, j, k] = (weight * seen).sum(axis=(1, 2, 3, 4))
    assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize(
    "attrs", [{}, {"group": 2}, {"strides": [2, 1]}, {"pads": [1, 0, 0, 2]}], ids=str
)
def test_convolution_of_single_positions(attrs: dict[str, Any]) -> None:
    weight = np.random.default_rng(1).standard_normal((6, 4 // attrs.get("group", 1), 1, 1))
    _agrees(_model("Conv", [weight, np.arange(6.0)], **attrs))


@pytest.mark.parametrize("attrs", TRANSPOSED, ids=str)
def test_transposed_convolution(attrs: dict[str, Any]) -> None:
    weight = np.random.default_rng(1).standard_normal((4, 3, 3, 2))
    _agrees(_model("ConvTranspose", [weight, np.arange(3.0)], **attrs))


def test_grouped_transposed_convolution() -> None:
    weight = np.random.default_rng(1).standard_normal((4, 3, 3, 2))
    attrs: dict[str, Any] = {"strides": [2, 1], "pads": [0, 1, 1, 0]}
    whole = _model("ConvTranspose", [weight], group=2, **attrs)
    x = np.random.default_rng(0).standard_normal((2, 4, 9, 8))
    ours: Array = Float64Model(whole).run([whole.graph.output[0].name], {"x": x})[0]
    parts = []
    for group in (slice(0, 2), slice(2, 4)):
        graph = Graph("part", dtype="float64")
        part = graph.add(
            "ConvTranspose", graph.input("x", (2, 2, 9, 8)), graph.store(weight[group]), **attrs
        )
        graph.output(part)
        parts += list(ReferenceEvaluator(graph.model()).run(None, {"x": x[:, group]}))
    expected = np.concatenate(parts, axis=1)
    assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("attrs", POOLS, ids=str)
def test_max_pool(attrs: dict[str, Any]) -> None:
    _agrees(_model("MaxPool", [], **attrs))


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("attrs", POOLS[:2], ids=str)
def test_average_pool(attrs: dict[str, Any], count: int) -> None:
    _agrees(_model("AveragePool", [], count_include_pad=count, **attrs))


def test_batchnorm_uses_stored_statistics() -> None:
    for opset in (9, 13, 14, 17):
        graph = Graph("bn", dtype="float64", opset=opset)
        graph.output(graph.bn(graph.input("x", ("N", 3)), 3))
        stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.weights.values()}
        x = np.random.default_rng(0).standard_normal((5, 3))
        model = graph.model()
        got: Array = Float64Model(model).run([model.graph.output[0].name], {"x": x})[0]
        spread = np.sqrt(stored["bn.var"] + float(np.float32(1e-3)))
        want = stored["bn.gamma"] * (x - stored["bn.mean"]) / spread + stored["bn.beta"]
        assert np.abs(got - want).max() <= TOLERANCE


def test_float16_is_widened() -> None:
    graph = Graph("narrow", dtype="float16")
    x = graph.input("x", ("N", 3))
    y = graph.add("MatMul", x, graph.store(graph.array(3, 2), "w"))
    graph.output(graph.add("Cast", y, to=TensorProto.FLOAT), dtype="float32")
    model = graph.model()
    x16 = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float16)
    got: Array = Float64Model(model).run([model.graph.output[0].name], {"x": x16})[0]
    weight = onnx.numpy_helper.to_array(graph.weights["w"]).astype(np.float64)
    assert got.dtype == np.float64
    assert np.abs(got - x16.astype(np.float64) @ weight).max() <= TOLERANCE


def test_quantized_model_is_unsupported() -> None:
    graph = Graph("quantized")
    levels = graph.store(np.ones((3, 2), dtype=np.int8))
    weight = graph.add("DequantizeLinear", levels, graph.store(np.array(0.1)))
    graph.output(graph.add("MatMul", graph.input("x", ("N", 3)), weight))
    with pytest.raises(NotExactError, match="DequantizeLinear"):
        Float64Model(graph.model())


def test_cost_limit() -> None:
    graph = Graph("heavy")
    x = graph.input("x", ("N", 64, 4096, 4096))
    graph.output(graph.conv(x, (64, 64), pads=[1, 1, 1, 1]))
    model = Float64Model(graph.model())
    zero = np.broadcast_to(np.zeros((), dtype=np.float32), (1, 64, 512, 512))
    with pytest.raises(NotExactError, match="billion multiplications"):
        model.run([graph.outputs[0].name], {"x": np.tile(zero, (2, 1, 1, 1))})


def test_pools_beyond_the_edge_are_unsupported() -> None:
    model = _model("AveragePool", [], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    with pytest.raises(NotExactError, match="extend beyond the edge"):
        Float64Model(model).run([model.graph.output[0].name], {"x": np.zeros((2, 4, 9, 8))})


def test_a_tensor_that_is_read_again_late_and_one_that_nothing_reads() -> None:
    graph = Graph("long", dtype="float64", opset=17)
    x = graph.input("x", ("N", 3))
    early = graph.add("Neg", x)
    unread = graph.add("Abs", x)
    y = graph.add("Add", graph.add("Exp", graph.add("Sqrt", graph.add("Abs", early))), early)
    graph.output(y)
    model, values = graph.model(), np.random.default_rng(0).standard_normal((2, 3))
    batches = [{"x": values}, {"x": 2 * values}]
    found = Float64Model(model).run_all(
        [graph.outputs[0].name, early], batches, threads=2, summarize=np.sum, summarized=[unread, y]
    )
    for batch, (outputs, sums) in zip(batches, found, strict=True):
        results: list[Any] = list(ReferenceEvaluator(model).run([y, early, unread], batch))
        want, first, other = results
        assert [array.tolist() for array in outputs] == [want.tolist(), first.tolist()]
        assert sums == {unread: other.sum(), y: want.sum()}


def test_a_subgraph_reads_a_tensor_of_the_graph_around_it() -> None:
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Mul", ["early", "early"], ["square"])],
        "then",
        [],
        [onnx.helper.make_tensor_value_info("square", TensorProto.DOUBLE, None)],
    )
    nodes = [
        onnx.helper.make_node("Neg", ["x"], ["early"]),
        onnx.helper.make_node("Abs", ["early"], ["late"]),
        onnx.helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner),
        onnx.helper.make_node("Add", ["late", "y"], ["z"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "outer",
        [onnx.helper.make_tensor_value_info("x", TensorProto.DOUBLE, [2])],
        [onnx.helper.make_tensor_value_info("z", TensorProto.DOUBLE, [2])],
        [onnx.numpy_helper.from_array(np.ones((), np.bool_), "yes")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    (found,) = Float64Model(model).run(["z"], {"x": np.array([-2.0, 3.0])})
    assert found.tolist() == [6.0, 12.0]


def test_model_is_not_modified() -> None:
    model = _model("MaxPool", [], kernel_shape=[2, 2])
    before = model.SerializeToString()
    Float64Model(model)
    assert model.SerializeToString() == before


def test_the_sigmoid_does_not_overflow() -> None:
    graph = Graph("Sigmoid", dtype="float64", opset=17)
    graph.output(graph.add("Sigmoid", graph.input("x", ("N",))), (None,))
    x = np.array([-1e4, -40.0, -1.0, 0.0, 1.0, 40.0, 1e4])
    model = graph.model()
    found: Array = Float64Model(model).run([model.graph.output[0].name], {"x": x})[0]
    with np.errstate(over="ignore"):
        expected = (1 / (1 + np.exp(-x.astype(np.longdouble)))).astype(np.float64)
    assert (np.abs(found - expected) <= 4e-16 * np.abs(expected)).all()


def test_patches_of_a_large_image_are_multiplied_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 6, 11, 10)), rng.standard_normal((4, 3, 3, 2))
    window = Window.of((3, 2), (11, 10), strides=(1, 2), dilations=None, pads=None, auto_pad=None)
    whole = convolve(x, weight, window, 2)
    monkeypatch.setattr(operators, "_PATCH_VALUES", 200)
    np.testing.assert_allclose(convolve(x, weight, window, 2), whole, rtol=1e-12, atol=1e-12)
