"""Folding a random graph gives an equivalent, valid model without foldable layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bn_ops.folding import fold
from bn_ops.onnx_files.session import session
from tests.conformance.fold.building import Array, Graph

BOUNDED = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)

BATCH = 2
TOLERANCE = 1e-5
"""Relative to the largest output. Weights are of order one and graphs about ten nodes deep, so
float32 rounding is about a hundred times smaller; a wrong fold is off by a tenth or more."""


@dataclass(frozen=True)
class Wire:
    """A value under construction: its name and full shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        return self.shape[1]

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 4


class GraphDrawer:
    """Build a graph from random steps; a later step may read any earlier value."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.graph = Graph(f"random {draw(st.integers(0, 10**6))}")
        self.wires = [Wire(self.graph.input("x", ("N", 4, 6, 6)), (BATCH, 4, 6, 6))]
        self.weights: dict[tuple[int, ...], list[str]] = {}
        self.layers = 0

    def pick(self, among: list[Wire]) -> Wire:
        """Prefer the newest value: folding happens in chains, faults at branches."""
        newest = self.draw(st.booleans())
        return among[-1] if newest else self.draw(st.sampled_from(among))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def weight(self, *shape: int) -> str:
        """Return a new weight, or a weight of the same shape that another node reads."""
        known = self.weights.setdefault(shape, [])
        if known and self.flag():
            return self.draw(st.sampled_from(known))
        scale = 1.0 / np.sqrt(max(1, int(np.prod(shape[1:]))))
        known.append(self.graph.store(scale * self.graph.array(*shape)))
        return known[-1]

    def add(self, op: str, shape: tuple[int, ...], *inputs: str, **attrs: Any) -> None:
        self.wires.append(Wire(self.graph.add(op, *inputs, **attrs), shape))

    def step(self) -> None:
        wire = self.pick(self.wires)
        steps = ["bn", "bn", "bn", "act", "same", "transpose", "add"]
        steps += (
            ["conv", "conv", "pool", "global", "concat", "flatten", "mul"] if wire.is_image else []
        )
        steps += ["gemm", "gemm", "matmul", "unflatten"] if len(wire.shape) == 2 else []
        getattr(self, f"do_{self.draw(st.sampled_from(steps))}")(wire)

    def do_bn(self, wire: Wire) -> None:
        self.layers += 1
        shift, positive = self.draw(st.sampled_from([True, True, False])), self.flag()
        name = self.graph.bn(
            wire.name, wire.channels, f"bn{self.layers}", shift=shift, positive=positive
        )
        self.wires.append(Wire(name, wire.shape))

    def do_act(self, wire: Wire) -> None:
        self.add(self.draw(st.sampled_from(["Relu", "Tanh", "Sigmoid"])), wire.shape, wire.name)

    def do_same(self, wire: Wire) -> None:
        self.add("Identity", wire.shape, wire.name)

    def do_transpose(self, wire: Wire) -> None:
        perm = self.draw(st.permutations(range(1, len(wire.shape))))
        order = [0, *perm]
        self.add("Transpose", tuple(wire.shape[i] for i in order), wire.name, perm=order)

    def do_conv(self, wire: Wire) -> None:
        batch, into, high, wide = wire.shape
        kernel = self.draw(st.sampled_from([k for k in (1, 2, 3) if k <= min(high, wide)]))
        groups = self.draw(st.sampled_from([g for g in (1, 2) if into % g == 0]))
        out, pad = 2 * self.draw(st.integers(1, 3)), self.draw(st.sampled_from([0, 0, 1]))
        weight = self.weight(out, into // groups, kernel, kernel)
        inputs = [wire.name, weight, self.weight(out)] if self.flag() else [wire.name, weight]
        grown = 2 * pad - kernel + 1
        shape = (batch, out, high + grown, wide + grown)
        self.add("Conv", shape, *inputs, group=groups, pads=[pad] * 4)

    def do_pool(self, wire: Wire) -> None:
        if min(wire.shape[2:]) < 2:
            return
        batch, channels, high, wide = wire.shape
        pad = self.draw(st.sampled_from([0, 1]))
        op = self.draw(st.sampled_from(["AveragePool", "MaxPool"]))
        attrs: dict[str, Any] = {"kernel_shape": [2, 2], "pads": [pad] * 4}
        if op == "AveragePool":
            attrs["count_include_pad"] = int(self.flag())
        grown = 2 * pad - 1
        self.add(op, (batch, channels, high + grown, wide + grown), wire.name, **attrs)

    def do_global(self, wire: Wire) -> None:
        self.add("GlobalAveragePool", (*wire.shape[:2], 1, 1), wire.name)

    def do_concat(self, wire: Wire) -> None:
        fits = [w for w in self.wires if w.is_image and w.shape[2:] == wire.shape[2:]]
        other = self.pick(fits)
        shape = (BATCH, wire.channels + other.channels, *wire.shape[2:])
        self.add("Concat", shape, wire.name, other.name, axis=self.draw(st.sampled_from([1, -3])))

    def do_add(self, wire: Wire) -> None:
        fits = [w for w in self.wires if w.shape == wire.shape]
        other = self.pick(fits).name
        if self.flag():
            tail = (1,) * (len(wire.shape) - 2)
            other = self.graph.store(self.graph.array(wire.channels, *tail))
        self.add(self.draw(st.sampled_from(["Add", "Sub", "Sum"])), wire.shape, wire.name, other)

    def do_mul(self, wire: Wire) -> None:
        factor = self.graph.store(self.graph.array(wire.channels, 1, 1))
        self.add("Mul", wire.shape, factor, wire.name)

    def do_flatten(self, wire: Wire) -> None:
        size = int(np.prod(wire.shape[1:]))
        if self.flag():
            self.add("Flatten", (BATCH, size), wire.name)
        else:
            sizes = self.draw(st.sampled_from([(0, -1), (-1, size)]))
            self.add("Reshape", (BATCH, size), wire.name, self.graph.ints(*sizes))

    def do_unflatten(self, wire: Wire) -> None:
        size = wire.shape[1]
        channels = self.draw(st.sampled_from([c for c in range(1, size + 1) if size % c == 0]))
        shape = (BATCH, channels, size // channels, 1)
        self.add("Reshape", shape, wire.name, self.graph.ints(0, *shape[1:]))

    def do_gemm(self, wire: Wire) -> None:
        out, turned = self.draw(st.integers(1, 8)), self.flag()
        size = wire.shape[1]
        inputs = [wire.name, self.weight(out, size) if turned else self.weight(size, out)]
        if self.flag():
            inputs.append(self.weight(*self.draw(st.sampled_from([(out,), (1, out), (1,)]))))
        alpha, beta = self.draw(st.sampled_from([(1.0, 1.0), (0.5, -2.0), (1.0, 0.0)]))
        self.add("Gemm", (BATCH, out), *inputs, transB=int(turned), alpha=alpha, beta=beta)

    def do_matmul(self, wire: Wire) -> None:
        out = self.draw(st.integers(1, 8))
        self.add("MatMul", (BATCH, out), wire.name, self.weight(wire.shape[1], out))

    def finish(self) -> onnx.ModelProto:
        """Return the model with the last value and some others as outputs."""
        chosen = {self.wires[-1].name: self.wires[-1]}
        for wire in self.wires[1:]:
            if self.draw(st.integers(0, 9)) == 0:
                chosen[wire.name] = wire
        for wire in chosen.values():
            self.graph.output(wire.name, ("N", *wire.shape[1:]))
        return self.graph.model()


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    drawer = GraphDrawer(draw)
    for _ in range(draw(st.integers(3, 12))):
        drawer.step()
    if drawer.layers == 0 or len(drawer.wires) == 1:
        drawer.do_bn(drawer.wires[-1])
    return drawer.finish()


@given(model=models())
@BOUNDED
def test_folded_graph_is_equivalent(model: onnx.ModelProto) -> None:
    folded = fold(model)
    onnx.checker.check_model(folded.model, full_check=True)
    assert len(folded.model.graph.node) <= len(model.graph.node)
    batch = {"x": np.random.default_rng(1).standard_normal((BATCH, 4, 6, 6)).astype(np.float32)}
    for want, got in zip(_run(model, batch), _run(folded.model, batch), strict=True):
        scale = max(float(np.abs(want).max()), 1e-3)
        assert float(np.abs(got - want).max()) <= TOLERANCE * scale


@given(model=models())
@BOUNDED
def test_folding_is_idempotent(model: onnx.ModelProto) -> None:
    once = fold(model).model
    assert fold(once).model.SerializeToString() == once.SerializeToString()


@given(model=models())
@BOUNDED
def test_report_covers_every_layer(model: onnx.ModelProto) -> None:
    folded = fold(model)
    before = [node.name for node in model.graph.node if node.op_type == "BatchNormalization"]
    after = {n.name for n in folded.model.graph.node if n.op_type == "BatchNormalization"}
    assert [layer.name for layer in folded.layers] == before
    kept = {layer.name for layer in folded.kept}
    assert after == kept


def _run(model: onnx.ModelProto, batch: dict[str, Array]) -> list[Array]:
    return list(session(model.SerializeToString(), threads=1, optimize=False).run(None, batch))
