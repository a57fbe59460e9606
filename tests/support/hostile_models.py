"""Untrusted model files, each with its allowed outcomes."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INVALID = frozenset({"model-invalid"})
EXTERNAL = frozenset({"external-data"})
UNSUPPORTED = frozenset({"model-unsupported"})
REJECTED = frozenset(
    {
        *("model-invalid", "model-unsupported", "model-without-batchnorm"),
        *("resource-limit", "worker-died", "worker-deadline", "engine-failed"),
    }
)
# Unusual, but harmless for the reader.
EITHER = REJECTED | {"accepted"}
FLOAT = TensorProto.FLOAT
TRUE = numpy_helper.from_array(np.ones((), np.bool_))
HTML = "<script>alert(1)</script><img src=x onerror=alert(1)>"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileModel:
    """A file and its allowed outcomes: problem codes, or `accepted`."""

    name: str
    content: bytes
    allowed: frozenset[str]


def bn_model(
    *,
    extra: list[onnx.NodeProto] | None = None,
    functions: list[onnx.FunctionProto] | None = None,
    opsets: list[tuple[str, int]] | None = None,
    layer: str = "bn",
    channels: int = 3,
    change: Callable[[onnx.ModelProto], None] = lambda _: None,
) -> bytes:
    """Return a network from `x` through one BatchNorm and the `extra` nodes to `y`."""
    names = ("scale", "shift", "mean", "var")
    tensors = [numpy_helper.from_array(np.ones(channels, np.float32), one) for one in names]
    graph = helper.make_graph(
        [
            helper.make_node("BatchNormalization", ["x", *names], ["n"], name=layer),
            *(extra or [helper.make_node("Relu", ["n"], ["y"])]),
        ],
        "network",
        [helper.make_tensor_value_info("x", FLOAT, ["N", channels, 4, 4])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", channels, 4, 4])],
        tensors,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*one) for one in opsets or [("", 17)]],
        functions=functions or [],
        ir_version=10,
    )
    change(model)
    return bytes(model.SerializeToString())


def _external(location: str, **keys: str) -> bytes:
    def point(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **keys}.items():
            tensor.external_data.add(key=key, value=value)

    return bn_model(change=point)


def _dims(*dims: int) -> bytes:
    def set_dims(model: onnx.ModelProto) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)

    return bn_model(change=set_dims)


def _branch(nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
    value = helper.make_tensor_value_info(output, FLOAT, ["N", 3, 4, 4])
    return helper.make_graph(nodes, "branch", [], [value])


def nested(depth: int, innermost: onnx.NodeProto | None = None) -> bytes:
    """Return `depth` nested If nodes around one operator."""
    inner = innermost or helper.make_node("Relu", ["n"], ["v0"])
    inner.output[0] = "v0"
    nodes = [inner]
    for level in range(depth):
        branch = _branch(nodes, f"v{level}")
        other = _branch([helper.make_node("Identity", ["n"], [f"o{level}"])], f"o{level}")
        flag = helper.make_node("Constant", [], [f"c{level}"], value=TRUE)
        nodes = [
            flag,
            helper.make_node(
                "If", [f"c{level}"], [f"v{level + 1}"], then_branch=branch, else_branch=other
            ),
        ]
    last = helper.make_node("Identity", [f"v{depth}"], ["y"])
    return bn_model(extra=[*nodes, last])


def _very_deep(depth: int) -> bytes:
    """Encode nested subgraphs in linear time; the protobuf classes would copy them."""

    def field(number: int, content: bytes) -> bytes:
        length, size = len(content), b""
        while length > 0x7F:
            size += bytes([length & 0x7F | 0x80])
            length >>= 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + content

    graph = b""
    for _ in range(depth):
        node = field(4, b"If") + field(5, field(1, b"then_branch") + field(6, graph))
        graph = field(1, node)
    return b"\x08\x0a" + field(7, graph)


def _call(name: str, *, domain: str = "own") -> onnx.NodeProto:
    return helper.make_node(name, ["n"], ["y"], domain=domain)


def function(name: str, calls: list[tuple[str, str]]) -> onnx.FunctionProto:
    nodes = []
    value = "a"
    for number, (domain, called) in enumerate(calls):
        after = "b" if number == len(calls) - 1 else f"t{number}"
        nodes.append(helper.make_node(called, [value], [after], domain=domain))
        value = after
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    opsets += [helper.make_opsetid("evil", 1)]
    return helper.make_function("own", name, ["a"], ["b"], nodes, opsets)


def with_functions(*functions: onnx.FunctionProto, first: str = "f0") -> bytes:
    opsets = [("", 17), ("own", 1), ("evil", 1)]
    return bn_model(extra=[_call(first)], functions=list(functions), opsets=opsets)


def _doubling(levels: int) -> bytes:
    """Return functions that each call the next twice: 2**levels nodes after inlining."""
    chain = [function(f"f{n}", [("own", f"f{n + 1}")] * 2) for n in range(levels)]
    return with_functions(*chain, function(f"f{levels}", [("", "Relu")]))


def _zip(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


class _CreatesFile:
    """An object whose unpickling creates a file."""

    def __reduce__(self) -> tuple[object, ...]:
        return (open, ("/tmp/bnrecal-hostile", "w"))


def memory_bomb() -> bytes:
    """Return a small model whose run allocates 16 GiB."""
    size = numpy_helper.from_array(np.array([1 << 32], np.int64))
    return bn_model(
        extra=[
            helper.make_node("Constant", [], ["size"], value=size),
            helper.make_node("ConstantOfShape", ["size"], ["huge"]),
            helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
            helper.make_node("Add", ["n", "sum"], ["y"]),
        ]
    )


def endless_loop() -> bytes:
    """Return a small model with an infinite loop after its BatchNorm."""
    i = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    cond = helper.make_tensor_value_info("cond", TensorProto.BOOL, [])
    more = helper.make_tensor_value_info("more", TensorProto.BOOL, [])
    carried = helper.make_tensor_value_info("carried", FLOAT, ["N", 3, 4, 4])
    out = helper.make_tensor_value_info("out", FLOAT, ["N", 3, 4, 4])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["cond"], ["more"]),
            helper.make_node("Relu", ["carried"], ["out"]),
        ],
        "body",
        [i, cond, carried],
        [more, out],
    )
    most = numpy_helper.from_array(np.array((1 << 62), np.int64))
    return bn_model(
        extra=[
            helper.make_node("Constant", [], ["most"], value=most),
            helper.make_node("Constant", [], ["true"], value=TRUE),
            helper.make_node("Loop", ["most", "true", "n"], ["y"], body=body),
        ]
    )


def nan_maker() -> bytes:
    """Return a model that computes NaN before its second BatchNorm."""
    names = ["scale", "shift", "mean", "var"]
    return bn_model(
        extra=[
            helper.make_node("Abs", ["n"], ["a"]),
            helper.make_node("Neg", ["a"], ["b"]),
            helper.make_node("Log", ["b"], ["c"]),
            helper.make_node("BatchNormalization", ["c", *names], ["y"], name="second"),
        ]
    )


def html_model() -> bytes:
    """Return a valid model whose layer name is an HTML script."""
    return bn_model(layer=HTML)


def _set(name: str, value: int) -> Callable[[onnx.ModelProto], None]:
    return lambda model: setattr(model, name, value)


def _no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def _twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.add().CopyFrom(model.graph.initializer[0])


def _statistics(value: float) -> Callable[[onnx.ModelProto], None]:
    content = np.full(3, value, np.float32).tobytes()
    return lambda model: setattr(model.graph.initializer[3], "raw_data", content)


def _sparse(model: onnx.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([1 << 60], np.int64)))
    sparse.dims.extend([1 << 61])


def _not_text(model: bytes) -> bytes:
    return model.replace(b"network", b"net\xff\xfe\x80k")


def _graphs() -> Iterator[tuple[str, bytes, frozenset[str]]]:
    evil = helper.make_node("Evil", ["n"], ["y"], domain="evil")
    opsets = [("", 17), ("evil", 1)]
    yield "external data above the folder", _external("../../../../etc/passwd"), EXTERNAL
    yield "external data at an absolute path", _external("/etc/passwd"), EXTERNAL
    yield "external data in /proc", _external("/proc/self/environ"), EXTERNAL
    yield "external data next to the file", _external("weights", length="12"), EXTERNAL
    yield "external data in the folder itself", _external("."), EXTERNAL
    yield "external data at a huge offset", _external("w", offset=str(1 << 62)), EXTERNAL
    yield "external data of negative length", _external("w", length="-1"), EXTERNAL
    yield "external data with a NUL", _external("w\0/../../x"), EXTERNAL
    yield "foreign domain", bn_model(extra=[evil], opsets=opsets), UNSUPPORTED
    yield "foreign domain in a subgraph", nested(2, evil), UNSUPPORTED | INVALID
    yield (
        "foreign domain in a function",
        with_functions(function("f0", [("evil", "Evil")])),
        UNSUPPORTED,
    )
    yield "unknown operator", bn_model(extra=[helper.make_node("Evil", ["n"], ["y"])]), INVALID
    yield "function calls itself", with_functions(function("f0", [("own", "f0")])), UNSUPPORTED
    yield "functions double thirty times", _doubling(30), UNSUPPORTED
    yield "functions two hundred deep", _doubling(200), UNSUPPORTED
    yield "subgraphs twenty deep", nested(18), UNSUPPORTED | INVALID
    yield "subgraphs thousand deep", _very_deep(1000), INVALID


def _files() -> Iterator[tuple[str, bytes, frozenset[str]]]:
    plain = bn_model()
    pickled = pickle.dumps(_CreatesFile(), protocol=4)
    yield "pickle", pickled, INVALID
    yield "pickle of protocol 0", pickle.dumps(_CreatesFile(), protocol=0), INVALID
    yield (
        "TorchScript archive",
        _zip(("net/data.pkl", pickled), ("net/code/__torch__.py", b"import os")),
        INVALID,
    )
    yield "pt2 archive", _zip(("archive_format", b"pt2"), ("models/model.json", b"{}")), INVALID
    yield "pth archive", _zip(("archive/data.pkl", pickled), ("archive/version", b"3")), INVALID
    yield "zip bomb", _zip(("model.onnx", bytes(1 << 22))), INVALID
    yield "zip with a path outside", _zip(("../../x", plain)), INVALID
    yield "gzip of a model", gzip.compress(plain), INVALID
    yield "nothing", b"", INVALID
    yield "noise", np.random.default_rng(0).bytes(4096), INVALID
    yield "half a model", plain[: len(plain) // 2], INVALID
    yield "an ELF program", b"\x7fELF" + bytes(200), INVALID
    yield "a shell script", b"#!/bin/sh\ntouch /tmp/bnrecal-hostile\n", INVALID
    yield (
        "XML entities",
        b'<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><a>&c;</a>',
        INVALID,
    )


def _false_metadata() -> Iterator[tuple[str, bytes, frozenset[str]]]:
    yield "false sizes", _dims(1 << 40), REJECTED
    yield "sizes whose product overflows", _dims(1 << 32, 1 << 32), REJECTED
    yield "negative sizes", _dims(-3), REJECTED
    yield "sparse tensor of 2**61", bn_model(change=_sparse), EITHER
    yield "unsupported opset", bn_model(opsets=[("", 1_000_000)]), REJECTED
    yield "negative opset", bn_model(opsets=[("", -1)]), REJECTED
    yield "no opset", bn_model(change=_no_opset), REJECTED
    yield "unsupported IR version", bn_model(change=_set("ir_version", 1 << 60)), REJECTED
    yield "duplicate name", bn_model(change=_twice), EITHER
    yield "no channels", bn_model(channels=0), EITHER
    yield "negative variance", bn_model(change=_statistics(-1.0)), EITHER
    yield "variance NaN", bn_model(change=_statistics(float("nan"))), EITHER
    yield (
        "cyclic graph",
        bn_model(
            extra=[
                helper.make_node("Add", ["n", "y"], ["z"]),
                helper.make_node("Relu", ["z"], ["y"]),
            ]
        ),
        REJECTED,
    )
    yield "name of a megabyte", bn_model(layer="a" * (1 << 20)), EITHER
    yield "name of control characters", bn_model(layer="\r\n\x00\x1b[31m\u202e"), EITHER
    yield "name that is a path", bn_model(layer="../../../../tmp/bnrecal-hostile"), EITHER
    yield "name that is not UTF-8", _not_text(bn_model()), EITHER
    yield "false length", b"\x08\x0a\x3a" + struct.pack("<I", 0x7FFFFFFF) + b"x", INVALID


MODELS = tuple(
    HostileModel(name=name, content=content, allowed=allowed)
    for cases in (_graphs(), _files(), _false_metadata())
    for name, content, allowed in cases
)
