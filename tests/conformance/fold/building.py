"""Builder of small graphs with random weights, and the expected results of folding."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
Size = int | str

FOLDED = "folded"

_ELEMENT_TYPES: dict[str, int] = {
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}

_IR_VERSIONS = {9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8}


class Graph:
    """Build a model node by node; every operator method returns the name of its output."""

    def __init__(self, name: str, *, opset: int = 17, dtype: str = "float32") -> None:
        self.name = name
        self.opset = opset
        self.dtype = dtype
        self.random = np.random.default_rng(zlib.crc32(name.encode()))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.domains: list[str] = []
        self.ir_version: int | None = None
        self._count = 0

    def array(self, *shape: int) -> Array:
        return self.random.standard_normal(shape)

    def store(self, array: Array, name: str | None = None, dtype: str | None = None) -> str:
        """Store a tensor; floats are cast to `dtype`, by default the model's element type."""
        name = name or self._fresh("w")
        if array.dtype.kind == "f":
            array = array.astype(_numpy(dtype or self.dtype))
        self.weights[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def ints(self, *values: int) -> str:
        return self.store(np.array(values, dtype=np.int64))

    def input(self, name: str, shape: Sequence[Size] | None, dtype: str | None = None) -> str:
        kind = _ELEMENT_TYPES[dtype or self.dtype]
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(
        self, name: str, shape: Sequence[Size | None] | None = None, dtype: str | None = None
    ) -> None:
        kind = _ELEMENT_TYPES[dtype or self.dtype]
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def add(
        self, op: str, *inputs: str, name: str | None = None, out: str | None = None, **attrs: Any
    ) -> str:
        out = out or self._fresh(op.lower())
        domain = attrs.pop("domain", "")
        outputs = [out, *attrs.pop("more_outputs", ())]
        self.nodes.append(
            helper.make_node(op, inputs, outputs, name=name or f"n_{out}", domain=domain, **attrs)
        )
        return out

    def conv(
        self,
        x: str,
        channels: tuple[int, int],
        kernel: Sequence[int] = (3, 3),
        *,
        groups: int = 1,
        bias: bool = True,
        weight: str | None = None,
        **attrs: Any,
    ) -> str:
        """Add a convolution; `channels` is (in, out)."""
        into, out = channels
        weight = weight or self.store(0.4 * self.array(out, into // groups, *kernel))
        inputs = [x, weight, self.store(self.array(out))] if bias else [x, weight]
        return self.add("Conv", *inputs, group=groups, **attrs)

    def bn(
        self,
        x: str,
        channels: int,
        name: str = "bn",
        *,
        positive: bool = False,
        shift: bool = True,
        stats: str | None = None,
        eps: float = 1e-3,
        **attrs: Any,
    ) -> str:
        """Add a layer with random parameters; without `shift`, mean and beta are zero."""
        gamma = self.random.uniform(0.5, 1.5, channels)
        if not positive:
            gamma *= self.random.choice([-1.0, 1.0], channels)
        beta = self.array(channels) if shift else np.zeros(channels)
        mean = self.array(channels) if shift else np.zeros(channels)
        var = self.random.uniform(0.25, 2.0, channels)
        inputs = [
            self.store(gamma, f"{name}.gamma"),
            self.store(beta, f"{name}.beta"),
            self.store(mean, f"{name}.mean", stats),
            self.store(var, f"{name}.var", stats),
        ]
        return self.add("BatchNormalization", x, *inputs, name=name, epsilon=eps, **attrs)

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, self.name, self.inputs, self.outputs, list(self.weights.values())
        )
        imports = [helper.make_opsetid("", self.opset)]
        imports += [helper.make_opsetid(domain, 1) for domain in self.domains]
        version = self.ir_version or _IR_VERSIONS.get(self.opset, 9 if self.opset > 18 else 4)
        model = helper.make_model(
            graph, opset_imports=imports, ir_version=version, functions=self.functions
        )
        if all(output.type.tensor_type.HasField("shape") for output in model.graph.output):
            return model
        # The full check requires output shapes; shape inference provides those that the case omits.
        inferred = onnx.shape_inference.infer_shapes(model)
        for output, known in zip(model.graph.output, inferred.graph.output, strict=True):
            if not output.type.tensor_type.HasField("shape"):
                output.type.CopyFrom(known.type)
        return model

    def _fresh(self, stem: str) -> str:
        self._count += 1
        return f"{stem}{self._count}"


def _numpy(dtype: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A graph and its expected folding.

    Attributes:
        name: description of the graph; also the seed of its weights and batches.
        build: builds the model.
        expect: per layer name, `folded:<rule>` or a part of the reason for keeping it.
        nodes: number of nodes of the folded main graph, if it matters.
        runs: whether onnxruntime has kernels for it.
        valid: whether the checker accepts the original model.
        reference: whether onnx's reference operators compute it correctly; BatchNormalization of
            opset 9 to 13 there normalizes with the statistics of the batch.
        tolerance: maximum error relative to the largest output value.
        sizes: sizes of free axes.
        feeds: inputs that cannot be drawn at random.
    """

    name: str
    build: Callable[[], onnx.ModelProto]
    expect: Mapping[str, str]
    nodes: int | None = None
    runs: bool = True
    valid: bool = True
    reference: bool = True
    tolerance: float = 1e-5
    sizes: Mapping[str, int] = field(default_factory=dict)
    feeds: Mapping[str, Array] = field(default_factory=dict)

    def batches(self, model: onnx.ModelProto) -> list[dict[str, Array]]:
        """Draw batches: random, zero, tenfold, and one that overrides overridable initializers."""
        random = np.random.default_rng(zlib.crc32(self.name.encode()))
        given = {tensor.name for tensor in model.graph.initializer}
        values = [value for value in model.graph.input if value.name not in given]
        drawn = {value.name: self._draw(value, random) for value in values}
        drawn |= {name: array for name, array in self.feeds.items() if name in drawn}
        overriding = {
            value.name: self._draw(value, random) + 1
            for value in model.graph.input
            if value.name in given and value.type.tensor_type.elem_type != TensorProto.INT64
        }
        batches = [
            {
                name: (factor * array).astype(array.dtype) if array.dtype.kind == "f" else array
                for name, array in drawn.items()
            }
            for factor in (1.0, 0.0, 10.0)
        ]
        if overriding and model.ir_version > 3:
            batches.append(drawn | overriding)
        return batches

    def _draw(self, value: onnx.ValueInfoProto, random: np.random.Generator) -> Array:
        tensor = value.type.tensor_type
        shape = [dim.dim_value or self.sizes.get(dim.dim_param, 2) for dim in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype.kind == "b":
            return np.ones(shape, dtype=np.bool_)
        return random.standard_normal(shape).astype(dtype)


Build = Callable[[Graph], None]


class Cases:
    """Collect the cases of a module; `case` decorates the functions that build them."""

    def __init__(self) -> None:
        self.all: list[Case] = []

    def case(
        self,
        name: str,
        expect: Mapping[str, str],
        *,
        opset: int = 17,
        dtype: str = "float32",
        **options: Any,
    ) -> Callable[[Build], Build]:
        def register(draw: Build) -> Build:
            def build() -> onnx.ModelProto:
                graph = Graph(name, opset=opset, dtype=dtype)
                draw(graph)
                return graph.model()

            self.all.append(Case(name=name, build=build, expect=expect, **options))
            return draw

        return register
