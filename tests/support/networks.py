"""Small ONNX networks for tests of the ONNX engine and everything that uses it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


class GraphBuilder:
    """Build a graph node by node; all weights come from one seeded generator."""

    def __init__(self, seed: int = 0, dtype: type[np.floating] = np.float32) -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self._count = 0

    def name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    def tensor(self, value: NDArray[np.generic], stem: str = "t") -> str:
        name = self.name(stem)
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, *shape: int) -> str:
        fan_in = max(int(np.prod(shape[1:])), 1)
        value = self.rng.normal(0, 1.4 / np.sqrt(fan_in), shape)
        return self.tensor(value.astype(self.dtype), "w")

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: object) -> str:
        output = self.name(kind.lower())
        node = helper.make_node(kind, list(inputs), [output], name=name)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self.nodes.append(node)
        return output

    def conv(
        self, x: str, c_in: int, c_out: int, *, k: int = 3, group: int = 1, stride: int = 1
    ) -> str:
        return self.op(
            "Conv",
            x,
            self.weight(c_out, c_in // group, k, k),
            group=group,
            strides=[stride, stride],
            pads=[k // 2] * 4,
        )

    def bn(self, x: str, channels: int, name: str = "") -> str:
        rng, kind = self.rng, self.dtype
        parameters = (
            rng.uniform(0.5, 1.5, channels),
            rng.normal(0, 0.5, channels),
            rng.normal(0, 1, channels),
            rng.uniform(0.3, 3.0, channels),
        )
        stems = ("scale", "shift", "mean", "var")
        inputs = [self.tensor(p.astype(kind), s) for p, s in zip(parameters, stems, strict=True)]
        return self.op("BatchNormalization", x, *inputs, name=name)

    def model(
        self,
        inputs: Sequence[tuple[str, Sequence[int | str]]],
        outputs: Sequence[str],
        *,
        opset: int = 17,
    ) -> onnx.ModelProto:
        element = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info(n, element, list(shape)) for n, shape in inputs],
            [onnx.ValueInfoProto(name=n) for n in outputs],
            self.tensors,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
        )
        model = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(model, full_check=True)
        return model


def residual_network(*, width: int = 8, classes: int = 10, seed: int = 0) -> onnx.ModelProto:
    """Return a stem, two residual blocks, pooling and a Gemm head; `x` is (N, 3, H, W)."""
    g = GraphBuilder(seed)
    x = g.op("Relu", g.bn(g.conv("x", 3, width), width, "stem.bn"))
    for block, (c_in, c_out, stride) in enumerate([(width, width, 1), (width, 2 * width, 2)]):
        y = g.bn(g.conv(x, c_in, c_out, stride=stride), c_out, f"block{block}.bn1")
        y = g.bn(g.conv(g.op("Relu", y), c_out, c_out), c_out, f"block{block}.bn2")
        if c_in != c_out:
            x = g.conv(x, c_in, c_out, k=1, stride=stride)
            x = g.bn(x, c_out, f"block{block}.down.bn")
        x = g.op("Relu", g.op("Add", x, y))
    pooled = g.op("Flatten", g.op("GlobalAveragePool", x))
    head = g.op("Gemm", pooled, g.weight(classes, 2 * width), g.weight(classes), transB=1)
    return g.model([("x", ["N", 3, "H", "W"])], [head])


def images(
    samples: int, *, channels: int = 3, size: int = 12, seed: int = 1
) -> NDArray[np.float32]:
    """Return samples with different means and spreads, like real images."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0.5, 1.0, (samples, channels, 1, 1))
    spread = rng.uniform(0.2, 2.0, (samples, 1, 1, 1))
    noise = rng.normal(0, 1, (samples, channels, size, size))
    return (level + spread * noise).astype(np.float32)


FLOAT = TensorProto.FLOAT
