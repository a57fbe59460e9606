"""Models larger than a protobuf message, with a lowered limit, give the same results."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import bn_ops
from bn_ops.errors import ModelUnsupportedError
from bn_ops.onnx_files import large_models as large
from bn_ops.onnx_files.large_models import (
    bare_copy,
    check_model,
    exceeds,
    inlined,
    light_copy,
    model_digest,
    packed,
    serialized,
    tensor_digest,
)
from bn_ops.onnx_files.read_write import read_model, write_model
from bn_ops.onnx_files.session import onnxruntime, session
from bn_ops.verification import fold_verified
from tests.support.networks import images, residual_network

# Between the size of the structure (5 kB) and of the whole network (28 kB).
LIMIT = 16_000

BATCHES = [images(6), images(5, seed=2)]


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the limit, and make serialization beyond it fail."""
    monkeypatch.setattr(large, "MESSAGE_LIMIT", LIMIT)
    for owner, name in (
        (onnx.checker, "check_model"),
        (onnx.shape_inference, "infer_shapes"),
        (onnxruntime(), "InferenceSession"),
    ):
        monkeypatch.setattr(owner, name, _limited(getattr(owner, name)))


def _limited(inner: Callable[..., Any]) -> Callable[..., Any]:
    def limited(model: Any, *args: Any, **given: Any) -> Any:
        size = len(model) if isinstance(model, bytes) else model.ByteSize()
        assert size <= LIMIT, "the model exceeds one protobuf message"
        return inner(model, *args, **given)

    return limited


# Built before the limit is lowered, because building checks the whole model.
_NETWORK = residual_network(width=12).SerializeToString()


def network() -> onnx.ModelProto:
    return onnx.load_model_from_string(_NETWORK)


def in_typed_fields(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with tensors in typed fields, as `onnx.helper.make_tensor` stores lists."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).reshape(-1).tolist()
        typed = onnx.helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, values)
        tensor.CopyFrom(typed)
    assert not any(tensor.HasField("raw_data") for tensor in model.graph.initializer)
    return model


@pytest.fixture(scope="module")
def ordinary() -> bn_ops.Artifact:
    return bn_ops.adapt(network(), BATCHES, estimator="replace")


def test_network_exceeds_the_limit() -> None:
    assert exceeds(network(), LIMIT)
    assert not exceeds(bare_copy(network()), LIMIT)


@pytest.mark.usefixtures("low")
def test_adapt(ordinary: bn_ops.Artifact) -> None:
    artifact = bn_ops.adapt(network(), BATCHES, estimator="replace")
    assert artifact.model.graph == ordinary.model.graph
    assert artifact.unfolded.graph == ordinary.unfolded.graph
    assert artifact.report.frozen == ordinary.report.frozen
    assert artifact.report.parity is not None
    assert artifact.report.parity.passed
    assert [e.status for e in artifact.report.fold or ()] == ["folded"] * 6


def test_adapt_with_typed_fields(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    wanted = bn_ops.adapt(in_typed_fields(network()), BATCHES, estimator="replace")
    request.getfixturevalue("low")
    artifact = bn_ops.adapt(in_typed_fields(network()), BATCHES, estimator="replace")
    assert artifact.model.graph == wanted.model.graph
    assert artifact.unfolded.graph == wanted.unfolded.graph
    frozen, expected = artifact.report.frozen, wanted.report.frozen
    assert frozen.sha256_before == frozen.sha256_after
    differing = {
        name for name, sha256 in frozen.tensors.items() if expected.tensors[name] != sha256
    }
    sizes = {tensor.name: tensor.ByteSize() for tensor in network().graph.initializer}
    assert differing == {name for name, size in sizes.items() if size > LIMIT} != set()
    artifact.save(tmp_path / "model.onnx")
    artifact.save_unfolded(tmp_path / "unfolded.onnx")
    assert len(list(tmp_path.glob("unfolded.onnx.*.data"))) == 1
    values = {t.name: numpy_helper.to_array(t) for t in artifact.unfolded.graph.initializer}
    for tensor in read_model(tmp_path / "unfolded.onnx").graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), values[tensor.name])


@pytest.mark.usefixtures("low")
@pytest.mark.parametrize("method", ["exact", "batch"])
def test_file_round_trip(tmp_path: Path, method: str) -> None:
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    write_model(network(), source)
    assert len(list(tmp_path.glob("source.onnx.*.data"))) == 1
    assert len(bn_ops.inspect(source)) == 6
    artifact = bn_ops.adapt(source, BATCHES, method=method, estimator="replace")
    artifact.save(target)
    artifact.save_unfolded(tmp_path / "unfolded.onnx")
    assert read_model(target) == artifact.model
    assert len(bn_ops.inspect(tmp_path / "unfolded.onnx")) == 6
    labels = {entry.key: entry.value for entry in read_model(target).metadata_props}
    assert labels["bnrecal.samples"] == "11"
    assert len(labels["bnrecal.source_sha256"]) == 64


@pytest.mark.usefixtures("low")
def test_fold_and_verify(tmp_path: Path) -> None:
    folded, parity = fold_verified(network(), BATCHES)
    assert not folded.kept
    assert parity.passed
    folded.save(tmp_path / "folded.onnx")
    assert bn_ops.verify(network(), read_model(tmp_path / "folded.onnx"), BATCHES).passed


def test_session_of_packed_model(monkeypatch: pytest.MonkeyPatch) -> None:
    x = {"x": images(3)}
    (wanted,) = session(network(), optimize=False).run(None, x)
    parts = packed(network(), LIMIT)
    assert len(parts.content) < LIMIT
    assert parts.external_initializers
    monkeypatch.setattr(large, "MESSAGE_LIMIT", LIMIT)
    (found,) = session(network(), optimize=False).run(None, x)
    np.testing.assert_array_equal(found, wanted)


def test_digests_cover_every_byte() -> None:
    model, other = network(), network()
    assert model_digest(model, LIMIT) == model_digest(other, LIMIT) != model_digest(model)
    tensor = other.graph.initializer[0]
    tensor.raw_data = tensor.raw_data[:-1] + bytes([tensor.raw_data[-1] ^ 1])
    assert model_digest(model, LIMIT) != model_digest(other, LIMIT)
    model.graph.node[0].name = "another"
    assert model_digest(model, LIMIT) != model_digest(network(), LIMIT)


def with_every_field(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with fields on both sides of the graph and of its initializers."""
    model.producer_name, model.doc_string = "a producer", "before the graph"
    model.metadata_props.add(key="after", value="the graph")
    model.functions.add(name="unused", domain="local")
    model.graph.doc_string = "after the initializers"
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("y", 1, ["N", 3]))
    model.graph.metadata_props.add(key="after", value="the initializers")
    return model


def with_unknown_fields(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with a field that this version of the format lacks, in each message."""
    unknown = b"\xfa\x7f\x03new"  # field 2047, three bytes
    for message in (model.graph.initializer[0], model.graph, model):
        message.MergeFromString(unknown)
    return model


@pytest.mark.parametrize("change", [onnx.ModelProto, network, residual_network])
@pytest.mark.parametrize("also", [lambda model: model, with_every_field])
def test_model_digest_equals_that_of_serialization(
    change: Callable[[], onnx.ModelProto], also: Callable[[onnx.ModelProto], onnx.ModelProto]
) -> None:
    for model in (also(change()), in_typed_fields(also(change()))):
        whole = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
        assert model_digest(model) == whole


def test_model_digest_covers_unknown_fields() -> None:
    model = with_unknown_fields(network())
    whole = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    assert model_digest(model) == whole != model_digest(network())


def test_check_accepts_what_the_checker_accepts() -> None:
    check_model(network())
    check_model(with_every_field(network()))
    old = network()
    old.ir_version = 3
    for check in (check_model, onnx.checker.check_model):
        with pytest.raises(onnx.checker.ValidationError, match="graph input"):
            check(old)


@pytest.mark.parametrize("fault", ["two fields", "no type", "twice"])
def test_check_covers_large_tensors(fault: str) -> None:
    model = network()
    large_one = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    assert onnx.numpy_helper.to_array(large_one).size > 256
    match fault:
        case "two fields":
            large_one.float_data.append(1.0)
        case "no type":
            large_one.data_type = onnx.TensorProto.UNDEFINED
        case _:
            model.graph.initializer.add().CopyFrom(large_one)
    for check in (onnx.checker.check_model, check_model):
        with pytest.raises(onnx.checker.ValidationError):
            check(model)


@pytest.mark.parametrize("elements", [0, 1, 31, 32, 5000])
def test_digest_equals_that_of_serialization(elements: int) -> None:
    array = np.arange(elements, dtype=np.float32)
    raw = numpy_helper.from_array(array, "w")
    raw.doc_string = "after the data"
    typed = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [elements], list(array))
    beside = onnx.TensorProto(name="w", data_location=onnx.TensorProto.EXTERNAL, dims=[2, 3])
    beside.external_data.add(key="location", value="w.bin")
    for tensor in (raw, typed, beside, onnx.TensorProto()):
        whole = hashlib.sha256(tensor.SerializeToString(deterministic=True)).hexdigest()
        assert tensor_digest(tensor) == whole


def test_digest_of_large_typed_tensor() -> None:
    raw = numpy_helper.from_array(np.arange(50, dtype=np.int64), "w")
    raw.doc_string = "after the data"
    typed = onnx.helper.make_tensor("w", onnx.TensorProto.INT64, [50], list(range(50)))
    typed.doc_string = raw.doc_string
    assert tensor_digest(typed, 400) == tensor_digest(raw)
    assert tensor_digest(typed, 4000) != tensor_digest(raw)


_NEGATIVE = onnx.helper.make_tensor("w", onnx.TensorProto.INT64, [1000], [-1] * 1000)
_POSITIVE = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1000], [1.5] * 1000)


@pytest.mark.parametrize("tensor", [_NEGATIVE, _POSITIVE], ids=["int64", "float"])
def test_size_of_integers_in_message(
    monkeypatch: pytest.MonkeyPatch, tensor: onnx.TensorProto
) -> None:
    monkeypatch.setattr(large, "_MAX_STRUCTURE_BYTES", 50)
    graph = onnx.GraphProto(initializer=[tensor])
    model = onnx.ModelProto(graph=graph)
    size = model.ByteSize()
    assert [exceeds(model, size + more) for more in (-1, 0, 1)] == [True, False, False]


@pytest.mark.parametrize("model", [network, lambda: in_typed_fields(network())])
def test_light_copy_has_same_shapes(model: Callable[[], onnx.ModelProto]) -> None:
    _has_the_same_shapes(model())


def _has_the_same_shapes(model: onnx.ModelProto) -> None:
    light = light_copy(model)
    assert light.ByteSize() < model.ByteSize() / 2
    assert not exceeds(light, LIMIT)

    def shapes(of: onnx.ModelProto) -> dict[str, Any]:
        inferred = onnx.shape_inference.infer_shapes(of).graph
        return {value.name: value.type for value in inferred.value_info}

    assert shapes(light) == shapes(model)


def test_strings_stay_in_structure() -> None:
    words = numpy_helper.from_array(np.full(300, "word", dtype=object), "w")
    numbers = numpy_helper.from_array(np.zeros(300, np.float32), "n")
    model = onnx.ModelProto(graph=onnx.GraphProto(initializer=[words, numbers]))
    parts = packed(model, 100)
    assert list(parts.external_initializers) == ["n"]
    (kept, _) = onnx.load_model_from_string(parts.content).graph.initializer
    assert kept == words


def test_functions_are_inlined(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    layer = next(node for node in model.graph.node if node.op_type == "Relu")
    body = onnx.helper.make_node("Relu", ["a"], ["b"])
    opset = [onnx.helper.make_opsetid("", 17)]
    function = onnx.helper.make_function("own", "Rectify", ["a"], ["b"], [body], opset)
    model.functions.append(function)
    model.opset_import.append(onnx.helper.make_opsetid("own", 1))
    layer.op_type, layer.domain = "Rectify", "own"
    wanted = inlined(model)
    monkeypatch.setattr(large, "MESSAGE_LIMIT", LIMIT)
    found = inlined(model)
    assert not found.functions
    assert list(found.graph.node) == list(wanted.graph.node)
    assert list(found.graph.initializer) == list(model.graph.initializer)
    assert list(found.graph.input) == list(model.graph.input)


def test_serialization_of_large_model_fails() -> None:
    with pytest.raises(ModelUnsupportedError, match="save it to a file"):
        serialized(network(), LIMIT)
    assert serialized(network()) == network().SerializeToString(deterministic=True)
