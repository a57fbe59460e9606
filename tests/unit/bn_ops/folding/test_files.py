"""Parts of a model that folding preserves or rejects, and its report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bn_ops.errors import ModelInvalidError, OptionError
from bn_ops.folding import Folded, detect_already_folded, fold
from bn_ops.onnx_files.session import session
from tests.conformance.fold.building import Array, Graph

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def _conv_bn() -> Graph:
    graph = Graph("plain")
    x = graph.input("x", ("N", 4, 9, 9))
    graph.output(
        graph.bn(
            graph.conv(
                x, (4, 6), bias=False, weight=graph.store(graph.array(6, 4, 3, 3), "weight")
            ),
            6,
        )
    )
    return graph


def _leftover() -> Graph:
    graph = Graph("leftover")
    x = graph.input("x", ("N", 4, 9, 9))
    graph.output(graph.bn(graph.add("Relu", x), 4))
    return graph


def _stored(model: onnx.ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def _run(model: onnx.ModelProto, x: Array) -> Array:
    return session(model.SerializeToString(), threads=1, optimize=False).run(None, {"x": x})[0]


def _reason(folded: Folded) -> str:
    (layer,) = folded.layers
    assert layer.reason is not None
    return layer.reason


def test_weights_are_rounded_once() -> None:
    model = _conv_bn().model()
    given = {name: array.astype(np.float64) for name, array in _stored(model).items()}
    scale = given["bn.gamma"] / np.sqrt(given["bn.var"] + float(np.float32(1e-3)))
    folded = _stored(fold(model).model)
    weight = (scale[:, None, None, None] * given["weight"]).astype(np.float32)
    assert np.array_equal(folded["weight"], weight)
    bias = (given["bn.beta"] - scale * given["bn.mean"]).astype(np.float32)
    assert np.array_equal(folded["weight.folded_bias"], bias)


def test_weights_of_two_layers_are_rounded_once() -> None:
    graph = Graph("twice", dtype="float16")
    x = graph.input("x", ("N", 4, 9, 9))
    conv = graph.conv(x, (4, 6), weight=graph.store(graph.array(6, 4, 3, 3), "weight"))
    graph.output(graph.bn(graph.bn(conv, 6, "a"), 6, "b"))
    model = graph.model()
    given = {name: array.astype(np.float64) for name, array in _stored(model).items()}
    eps = float(np.float32(1e-3))
    scales = [given[f"{n}.gamma"] / np.sqrt(given[f"{n}.var"] + eps) for n in ("a", "b")]
    want = (scales[1] * scales[0])[:, None, None, None] * given["weight"]
    assert np.array_equal(_stored(fold(model).model)["weight"], want.astype(np.float16))


def test_metadata_and_other_nodes_are_preserved() -> None:
    model = _conv_bn().model()
    model.producer_name, model.producer_version, model.domain = "maker", "7", "org.example"
    model.model_version, model.doc_string = 3, "words"
    model.metadata_props.add(key="author", value="somebody")
    model.graph.doc_string = "more words"
    model.graph.metadata_props.add(key="graph", value="kept")
    model.training_info.add()
    folded = fold(model).model
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(folded, name) == getattr(model, name)
    assert list(folded.metadata_props) == list(model.metadata_props)
    assert list(folded.graph.metadata_props) == list(model.graph.metadata_props)
    assert folded.graph.doc_string == "more words"
    assert folded.graph.name == model.graph.name
    assert len(folded.training_info) == 1


def test_model_without_layers_is_unchanged() -> None:
    graph = Graph("none")
    x = graph.input("x", ("N", 4, 9, 9))
    graph.output(graph.add("Relu", graph.conv(x, (4, 6))))
    folded = fold(graph.model())
    assert folded.layers == ()
    assert folded.model == graph.model()


def test_excluded_layer_keeps_its_reason() -> None:
    folded = fold(_conv_bn().model(), skip={"bn": "excluded by the caller"})
    assert _reason(folded) == "excluded by the caller"
    assert [node.op_type for node in folded.model.graph.node] == ["Conv", "BatchNormalization"]


def test_report_as_json() -> None:
    (layer,) = fold(_conv_bn().model()).layers
    assert layer.to_json() == {"name": "bn", "status": "folded", "rule": "conv", "reason": None}


def test_unfolded_layers_as_mul_and_add() -> None:
    model = _leftover().model()
    folded = fold(model, unfolded="mul_add")
    assert [node.op_type for node in folded.model.graph.node] == ["Relu", "Mul", "Add"]
    (layer,) = folded.layers
    assert (layer.status, layer.rule) == ("kept", "mul-add")
    onnx.checker.check_model(folded.model, full_check=True)
    assert list(folded.model.graph.output) == list(model.graph.output)
    x = np.random.default_rng(0).standard_normal((2, 4, 9, 9)).astype(np.float32)
    want = _run(model, x)
    assert np.abs(_run(folded.model, x) - want).max() <= 1e-6 * np.abs(want).max()
    again = fold(folded.model, unfolded="mul_add")
    assert again.model.SerializeToString() == folded.model.SerializeToString()


def test_training_mode_layers_are_kept() -> None:
    graph = Graph("training")
    x = graph.input("x", ("N", 4))
    y = graph.bn(x, 4, training_mode=1, more_outputs=["m", "v"])
    graph.output(graph.add("Relu", y))
    folded = fold(graph.model(), unfolded="mul_add")
    assert folded.layers[0].rule is None
    assert [node.op_type for node in folded.model.graph.node] == ["BatchNormalization", "Relu"]


def test_layers_of_unknown_rank_are_kept() -> None:
    graph = Graph("unknown")
    graph.domains.append("example")
    x = graph.add("Mystery", graph.input("x", ("N", 4)), domain="example")
    graph.output(graph.bn(x, 4), ("N", 4))
    folded = fold(graph.model(), unfolded="mul_add")
    assert [node.op_type for node in folded.model.graph.node] == ["Mystery", "BatchNormalization"]


def test_unknown_choice_for_unfolded_layers() -> None:
    with pytest.raises(OptionError, match="'keep' or 'mul_add'"):
        fold(_conv_bn().model(), unfolded="drop")  # type: ignore[arg-type]  # on purpose


def test_convolution_of_unknown_rank_is_folded() -> None:
    graph = Graph("unknown rank")
    x = graph.input("x", None)
    graph.output(graph.bn(graph.conv(x, (4, 6)), 6))
    assert fold(graph.model()).layers[0].rule == "conv"


def test_sparse_tensors_are_preserved() -> None:
    model = _conv_bn().model()
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))
    folded = fold(model)
    assert "sparse" in _reason(folded)
    assert folded.model == model


def test_weights_in_missing_file() -> None:
    model = _conv_bn().model()
    (weight,) = (t for t in model.graph.initializer if t.name == "weight")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="missing.bin")
    assert "the data of 'weight' cannot be read" in _reason(fold(model))


def test_wrong_shape_in_file() -> None:
    graph = Graph("lies")
    x, y = graph.input("x", ("N", 4, 9, 9)), graph.input("y", (1, 7, 7))
    conv = graph.conv(x, (4, 6))
    total = graph.add("Add", conv, graph.add("Relu", graph.add("Neg", y)))
    graph.output(graph.bn(total, 6), ("N", 6, 7, 7))
    model = graph.model()
    relu = model.graph.node[2].output[0]
    model.graph.value_info.append(
        helper.make_tensor_value_info(relu, TensorProto.FLOAT, ("N", 6, 7, 7))
    )
    assert "may be broadcast" in _reason(fold(model))


def test_huge_constant_of_shape() -> None:
    graph = Graph("huge")
    x = graph.input("x", ("N", 4))
    weight = graph.add("ConstantOfShape", graph.ints(1 << 20, 1 << 20))
    graph.output(graph.bn(graph.add("Gemm", x, weight), 4), ("N", 4))
    assert "is computed by ConstantOfShape" in _reason(fold(graph.model()))


def test_long_chain_of_operators() -> None:
    graph = Graph("long")
    y = graph.conv(graph.input("x", ("N", 4, 9, 9)), (4, 6))
    for _ in range(5000):
        y = graph.add("Identity", y)
    graph.output(graph.bn(y, 6))
    assert "more than 64 operators away" in _reason(fold(graph.model()))


def test_rejoining_paths_take_linear_time() -> None:
    graph = Graph("diamonds")
    y = graph.bn(graph.input("x", ("N", 1, 2, 2)), 1)
    for depth in range(30):
        y = graph.add("Concat", graph.add("Identity", y), graph.add("Identity", y), axis=1)
        if depth == 9:
            y = graph.conv(y, (1024, 1), (1, 1))
    graph.output(y, ("N", None, 2, 2))
    assert "is reached on more than one path" in _reason(fold(graph.model()))


def test_recursive_functions() -> None:
    graph = _conv_bn()
    graph.domains.append("local")
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    call = helper.make_node("Round", ["x"], ["y"], domain="local")
    layer = helper.make_node("BatchNormalization", ["y", "a", "b", "c", "d"], ["z"])
    nodes = [call, layer]
    graph.functions.append(helper.make_function("local", "Round", ["x"], ["z"], nodes, imports))
    model = _without_inference(graph)
    with pytest.raises(ModelInvalidError, match="cannot be inlined"):
        fold(model)


def test_body_that_returns_outer_value() -> None:
    graph = Graph("outer")
    x, flag = graph.input("x", ("N", 4, 9, 9)), graph.input("flag", (), "bool")
    y = graph.conv(x, (4, 6))
    graph.output(graph.bn(y, 6))
    value = helper.make_tensor_value_info(y, TensorProto.FLOAT, ("N", 6, 7, 7))
    body = helper.make_graph([], "body", [], [value])
    out = graph.add("If", flag, then_branch=body, else_branch=body)
    graph.output(out, ("N", 6, 7, 7))
    with pytest.raises(ModelInvalidError, match="returns an outer value"):
        fold(graph.model())


def test_standard_domain_spelled_ai_onnx() -> None:
    model = _conv_bn().model()
    model.opset_import[0].domain = "ai.onnx"
    assert fold(model).layers[0].rule == "conv"


def _without_inference(graph: Graph) -> onnx.ModelProto:
    functions, graph.functions = graph.functions, []
    model = graph.model()
    model.functions.extend(functions)
    return model


@pytest.mark.parametrize("name", ["resnet50", "inception_v2", "shufflenet", "densenet121"])
def test_known_networks_fold_completely(name: str) -> None:
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    layers = sum(node.op_type == "BatchNormalization" for node in model.graph.node)
    folded = fold(model)
    assert len(folded.layers) == layers > 40
    assert folded.kept == ()
    onnx.checker.check_model(folded.model, full_check=True)
    assert fold(folded.model).model.SerializeToString() == folded.model.SerializeToString()


def test_detection_of_folded_network() -> None:
    folded = fold(_conv_bn().model()).model
    assert detect_already_folded(folded)
    assert not detect_already_folded(_conv_bn().model())
    graph = Graph("no bias")
    graph.output(graph.conv(graph.input("x", ("N", 4, 9, 9)), (4, 6), bias=False))
    assert not detect_already_folded(graph.model())


def test_layer_in_body_is_not_folded_yet() -> None:
    graph = Graph("body")
    x, flag = graph.input("x", ("N", 4, 9, 9)), graph.input("flag", (), "bool")
    y = graph.conv(x, (4, 6))
    names = [graph.store(np.ones(6)) for _ in range(4)]
    value = helper.make_tensor_value_info("t", TensorProto.FLOAT, ("N", 6, 7, 7))
    inner = helper.make_node("BatchNormalization", [y, *names], ["t"])
    body = helper.make_graph([inner], "then", [], [value])
    same = helper.make_graph([helper.make_node("Identity", [y], ["t"])], "else", [], [value])
    graph.output(graph.add("If", flag, then_branch=body, else_branch=same), ("N", 6, 7, 7))
    assert not detect_already_folded(graph.model())


def test_torch_is_not_imported() -> None:
    code = "import sys, bn_ops.folding, bn_ops.verification\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
