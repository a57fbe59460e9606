"""Float64 oracle of exact recalibration, independent of the engines.

The whole data set passes through the network as one train-mode batch, node by node, in float64,
with the reference operators of onnx. The moments of the input of each BatchNorm are the expected
statistics.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.support.onnx_run import run_onnx

Array = NDArray[np.generic]
Observed = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


def oracle_statistics(
    model: onnx.ModelProto, feeds: Mapping[str, Array], *, frozen: Collection[str] = ()
) -> Observed:
    """Return layer name → (mean, population variance) of one train-mode pass over all samples.

    Layers in `frozen` normalize with the stored statistics.
    """
    return _walk(model, feeds, train=True, frozen=frozen)


def observed_statistics(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> Observed:
    """Return layer name → (mean, population variance) of its input in one eval-mode pass."""
    return _walk(model, feeds, train=False, frozen=())


def tapped_statistics(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> Observed:
    """Return the same as `observed_statistics`, computed by onnxruntime with added outputs.

    For operators without a reference implementation; float32 values, float64 moments.
    """
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    nodes = [n for n in model.graph.node if n.op_type == "BatchNormalization"]
    taps = list(dict.fromkeys(node.input[0] for node in nodes))
    known = {value.name for value in tapped.graph.output} | feeds.keys()
    tapped.graph.output.extend(onnx.ValueInfoProto(name=t) for t in taps if t not in known)
    names = [value.name for value in tapped.graph.output]
    seen = {**feeds, **dict(zip(names, run_onnx(tapped, feeds), strict=True))}
    return {node.name or node.output[0]: _moments(seen[node.input[0]]) for node in nodes}


def stored_statistics(model: onnx.ModelProto) -> Observed:
    """Return layer name → stored (mean, variance)."""
    tensors = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    return {
        node.name or node.output[0]: (tensors[node.input[3]], tensors[node.input[4]])
        for node in model.graph.node
        if node.op_type == "BatchNormalization"
    }


def residual(stored: Observed, observed: Observed) -> float:
    """Return the measure of guarantee P1: the maximum of |Δmean|/σ and |var ratio - 1|."""
    worst = 0.0
    for name, (mean, var) in observed.items():
        live = var > 1e-12
        shift = np.abs(stored[name][0] - mean)[live] / np.sqrt(var[live])
        ratio = np.abs(stored[name][1][live] / var[live] - 1)
        worst = max(worst, shift.max(initial=0.0), ratio.max(initial=0.0))
    return float(worst)


def _walk(
    model: onnx.ModelProto, feeds: Mapping[str, Array], *, train: bool, frozen: Collection[str]
) -> Observed:
    opset = next(o.version for o in model.opset_import if o.domain in {"", "ai.onnx"})
    values: dict[str, Array] = {
        t.name: _wide(numpy_helper.to_array(t)) for t in model.graph.initializer
    }
    values |= {name: _wide(array) for name, array in feeds.items()}
    found: Observed = {}
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            name = node.name or node.output[0]
            x = values[node.input[0]].astype(np.float64)
            found[name] = _moments(x)
            mean, var = (
                found[name]
                if train and name not in frozen
                else (values[node.input[3]], values[node.input[4]])
            )
            values[node.output[0]] = _normalize(node, x, values, mean, var)
            continue
        inputs = {name: values[name] for name in node.input if name}
        made = ReferenceEvaluator(node, opsets={"": opset}).run(None, inputs)
        values |= {n: _wide(np.asarray(a)) for n, a in zip(node.output, made, strict=False) if n}
    return found


def _moments(x: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    wide = x.astype(np.float64)
    axes = (0, *range(2, wide.ndim))
    return wide.mean(axis=axes), wide.var(axis=axes)


def _normalize(
    node: onnx.NodeProto,
    x: NDArray[np.float64],
    values: Mapping[str, Array],
    mean: Array,
    var: Array,
) -> Array:
    eps = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    shape = (1, -1, *([1] * (x.ndim - 2)))
    scale, shift = (values[node.input[i]].astype(np.float64).reshape(shape) for i in (1, 2))
    center, spread = (v.astype(np.float64).reshape(shape) for v in (mean, var))
    return np.asarray(scale * (x - center) / np.sqrt(spread + eps) + shift)


def _wide(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array
