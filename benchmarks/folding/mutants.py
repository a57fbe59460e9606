"""Wrong folds: each is what `bn_ops.fold` gives, with one layer folded incorrectly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from bn_ops.folding import Folded

__all__ = ["Layer", "Mutant", "layers_of", "mutants"]

ItemT = TypeVar("ItemT")

Array = NDArray[np.float64]
Pair = tuple[Array, Array]
"""Weight and bias of a convolution."""

Change = Callable[["Layer", Array, Array, np.random.Generator], Pair | None]
"""Returns another weight and bias of the folded convolution; None where it does not apply."""

_PADDED_WITH = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """A convolution and the BatchNorm behind it, in float64.

    Attributes:
        node: name of the convolution.
        output: the BatchNorm's output.
        activated: the output of the activation behind it; empty without one.
        weight: (out, in, ...), before folding.
        gamma, beta, mean, var, eps: of the BatchNorm.
    """

    node: str
    output: str
    activated: str
    weight: Array
    gamma: Array
    beta: Array
    mean: Array
    var: Array
    eps: float

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return len(self.gamma)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mutant:
    """A wrong fold.

    Attributes:
        fault: what is wrong.
        layer: name of the convolution.
        folded: the wrong model, with exact weights that it rounds correctly.
    """

    fault: str
    layer: str
    folded: Folded


def layers_of(model: onnx.ModelProto) -> list[Layer]:
    """Return every BatchNorm behind a convolution without a bias, in node order."""
    tensors = {
        tensor.name: numpy_helper.to_array(tensor).astype(np.float64)
        for tensor in model.graph.initializer
    }
    made = {name: node for node in model.graph.node for name in node.output}
    activated = {
        node.input[0]: node.output[0]
        for node in model.graph.node
        if node.op_type in {"Relu", "Clip"}
    }
    found = []
    for node in model.graph.node:
        source = made.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if source is None or source.op_type != "Conv" or len(source.input) > 2:
            continue
        gamma, beta, mean, var = (tensors[name] for name in node.input[1:5])
        eps = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        found.append(
            Layer(
                node=source.name,
                output=node.output[0],
                activated=activated.get(node.output[0], ""),
                weight=tensors[source.input[1]],
                gamma=gamma,
                beta=beta,
                mean=mean,
                var=var,
                eps=float(eps),
            )
        )
    return found


def _swapped(layer: Layer, weight: Array, bias: Array, draw: np.random.Generator) -> Pair:
    first, second = draw.choice(layer.channels, 2, replace=False)
    scale = layer.gamma / np.sqrt(layer.var + layer.eps)
    weight[first] = layer.weight[first] * scale[second]
    weight[second] = layer.weight[second] * scale[first]
    return weight, bias


def _without_eps(layer: Layer, weight: Array, _: Array, __: np.random.Generator) -> Pair | None:
    if (layer.var <= 0).any():
        return None
    scale = layer.gamma / np.sqrt(layer.var)
    shape = (-1, *(1 for _ in weight.shape[1:]))
    return layer.weight * scale.reshape(shape), layer.beta - layer.mean * scale


def _sign(layer: Layer, weight: Array, bias: Array, draw: np.random.Generator) -> Pair:
    channel = draw.integers(layer.channels)
    scale = layer.gamma[channel] / np.sqrt(layer.var[channel] + layer.eps)
    bias[channel] = layer.beta[channel] + layer.mean[channel] * scale
    return weight, bias


def _scaled(factor: float) -> Change:
    def change(layer: Layer, weight: Array, bias: Array, draw: np.random.Generator) -> Pair:
        weight[draw.integers(layer.channels)] *= factor
        return weight, bias

    return change


def _without_bias(_: Layer, weight: Array, bias: Array, __: np.random.Generator) -> Pair:
    return weight, np.zeros_like(bias)


def _statistics_of_other_channels(
    layer: Layer, weight: Array, _: Array, __: np.random.Generator
) -> Pair:
    mean, var = np.roll(layer.mean, 1), np.roll(layer.var, 1)
    scale = layer.gamma / np.sqrt(var + layer.eps)
    shape = (-1, *(1 for _ in weight.shape[1:]))
    return layer.weight * scale.reshape(shape), layer.beta - mean * scale


def _transposed(_: Layer, weight: Array, bias: Array, __: np.random.Generator) -> Pair:
    if weight.shape[-1] > 1:
        weight[0] = weight[0].swapaxes(-1, -2)
    else:
        size = min(8, *weight.shape[:2])
        weight[:size, :size] = weight[:size, :size].swapaxes(0, 1)
    return weight, bias


_CHANGES: Mapping[str, Change] = {
    "scales of two channels swapped": _swapped,
    "ε forgotten": _without_eps,
    "sign of one channel's shift": _sign,
    "one channel's scale off by 1e-1": _scaled(1.1),
    "one channel's scale off by 1e-2": _scaled(1.01),
    "one channel's scale off by 1e-3": _scaled(1.001),
    "bias missing": _without_bias,
    "statistics of other channels": _statistics_of_other_channels,
    "a block of the weight transposed": _transposed,
}


def mutants(
    folded: Folded,
    layers: list[Layer],
    active: Mapping[str, NDArray[np.intp]],
    *,
    count: int,
    seed: int,
) -> Iterator[Mutant]:
    """Yield every fault at a number of layers, spread over the network.

    Args:
        folded: the right fold.
        layers: of the unfolded model.
        active: layer → number of samples in which each channel is positive anywhere.
        count: number of layers for each fault.
        seed: seed of the channels that are chosen.
    """
    draw = np.random.default_rng(seed)
    for fault, change in _CHANGES.items():
        for layer in _spread(layers, count):
            weight, bias = _parameters(folded, layer)
            found = change(layer, weight, bias, draw)
            if found is not None:
                yield Mutant(fault=fault, layer=layer.node, folded=_with(folded, layer, *found))
    for layer in _spread([layer for layer in layers if _pads(folded, layer)], count):
        yield Mutant(
            fault="border padded with another value",
            layer=layer.node,
            folded=_padded(folded, layer),
        )
    for fault, low, high in (("a rarely active channel", 1, 8), ("a channel never active", 0, 0)):
        chosen = [
            (layer, channel)
            for layer in layers
            if layer.node in active
            for channel in np.flatnonzero(
                (active[layer.node] >= low) & (active[layer.node] <= high)
            )
            if layer.gamma[channel] != 0 and layer.var[channel] > 0
        ]
        for layer, channel in _spread(chosen, 2 * count):
            weight, bias = _parameters(folded, layer)
            weight[channel] *= 1.1
            yield Mutant(fault=fault, layer=layer.node, folded=_with(folded, layer, weight, bias))


def _spread(items: list[ItemT], count: int) -> list[ItemT]:
    chosen = np.unique(np.linspace(0, len(items) - 1, count).round().astype(int)) if items else ()
    return [items[index] for index in chosen]


def _node(model: onnx.ModelProto, layer: Layer) -> NodeProto:
    found: NodeProto
    (found,) = (node for node in model.graph.node if node.name == layer.node)
    return found


def _pads(folded: Folded, layer: Layer) -> bool:
    return any(any(a.ints) for a in _node(folded.model, layer).attribute if a.name == "pads")


def _parameters(folded: Folded, layer: Layer) -> Pair:
    """Return copies of the exact weight and bias that the fold wrote."""
    weight, bias = _node(folded.model, layer).input[1:3]
    return folded.exact[weight].copy(), folded.exact[bias].copy()


def _with(folded: Folded, layer: Layer, weight: Array, bias: Array) -> Folded:
    """Return a fold that wrote another weight and bias, each rounded once."""
    model = onnx.ModelProto()
    model.CopyFrom(folded.model)
    names = _node(model, layer).input[1:3]
    exact = dict(zip(names, (weight, bias), strict=True))
    for tensor in model.graph.initializer:
        if tensor.name in exact:
            kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            rounded = numpy_helper.from_array(exact[tensor.name].astype(kind), tensor.name)
            tensor.CopyFrom(rounded)
    return replace(folded, model=model, exact={**folded.exact, **exact})


def _padded(folded: Folded, layer: Layer) -> Folded:
    """Return a fold whose convolution pads with another value than zero."""
    model = onnx.ModelProto()
    model.CopyFrom(folded.model)
    node = _node(model, layer)
    pads = next(a for a in node.attribute if a.name == "pads")
    given = [0, 0, *pads.ints[:2], 0, 0, *pads.ints[2:]]
    model.graph.initializer.append(
        numpy_helper.from_array(np.array(given, dtype=np.int64), "border.pads")
    )
    model.graph.initializer.append(
        numpy_helper.from_array(np.array(_PADDED_WITH, dtype=np.float32), "border.value")
    )
    pad = helper.make_node("Pad", [node.input[0], "border.pads", "border.value"], ["border.out"])
    pads.ints[:] = [0] * len(pads.ints)
    place = list(model.graph.node).index(node)
    node.input[0] = "border.out"
    model.graph.node.insert(place, pad)
    return replace(folded, model=model)
