"""Where BatchNorm layers belong in a graph without them.

A layer is inserted after every Conv and ConvTranspose, and after every MatMul and Gemm that feeds
an activation, where another weighted operator follows: the last one of a branch is the network's
head, whose outputs are predictions and not features. A bias in an Add node of its own comes before
the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bn_ops.batchnorm_insertion.result import LeftOperator
from bn_ops.engines.onnx.batchnorm import is_batchnorm
from bn_ops.engines.onnx.graph import GraphIndex, is_standard, reads

if TYPE_CHECKING:
    import onnx

__all__ = ["CONVOLUTIONS", "Site", "find_sites"]

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_PRODUCTS = frozenset({"Gemm", "MatMul"})
_WEIGHTED = CONVOLUTIONS | _PRODUCTS | {"GRU", "LSTM", "RNN", "DeformConv"}

_ACTIVATIONS = frozenset(
    {
        "Celu",
        "Clip",
        "Elu",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mish",
        "PRelu",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Softsign",
        "Swish",
        "Tanh",
        "ThresholdedRelu",
    }
)

_DATA, _WEIGHT = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One place for a layer.

    Attributes:
        operator: name of the convolution, MatMul or Gemm; its first output's where it has none.
        op_type: its operator type.
        tensor: the output after which the layer goes, its bias included.
        position: the node that makes this tensor.
        operator_position: the convolution, MatMul or Gemm itself.
    """

    operator: str
    op_type: str
    tensor: str
    position: int
    operator_position: int


def find_sites(index: GraphIndex) -> tuple[list[Site], list[LeftOperator]]:
    """Return the places for layers in the order of the graph, and the operators that get none."""
    sites: list[Site] = []
    left: list[LeftOperator] = []
    readers = _readers(index)
    before_weights = _before_weights(index)
    for position, node in enumerate(index.graph.node):
        if not _has_weights(index, node):
            continue
        operator = node.name or node.output[0]
        end = _behind_bias(index, position, readers)
        reason = _reason(index, node, end, readers, before_weights)
        if reason is not None:
            left.append(LeftOperator(operator=operator, reason=reason))
            continue
        tensor = index.graph.node[end].output[0]
        sites.append(
            Site(
                operator=operator,
                op_type=node.op_type,
                tensor=tensor,
                position=end,
                operator_position=position,
            )
        )
    return sites, left


def _has_weights(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """Return whether a node is a convolution or product of data with stored weights."""
    if node.op_type not in CONVOLUTIONS | _PRODUCTS or not is_standard(node):
        return False
    return _is_constant(index, node.input[_WEIGHT]) and not _is_constant(index, node.input[_DATA])


def _is_constant(index: GraphIndex, name: str) -> bool:
    """Return whether a tensor depends on no input of the graph."""
    waiting, seen = [name], set()
    while waiting:
        current = waiting.pop()
        if current in index.feeds:
            return False
        position = index.producer.get(current)
        if position is not None and position not in seen:
            seen.add(position)
            waiting.extend(reads(index.graph.node[position]))
    return True


def _readers(index: GraphIndex) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for position, node in enumerate(index.graph.node):
        for name in set(reads(node)):
            found.setdefault(name, []).append(position)
    return found


def _behind_bias(index: GraphIndex, position: int, readers: dict[str, list[int]]) -> int:
    """Return the node that adds the bias, or the operator itself where there is no such node."""
    node = index.graph.node[position]
    following = readers.get(node.output[0], [])
    if len(following) != 1 or node.output[0] in _outputs(index):
        return position
    add = index.graph.node[following[0]]
    if add.op_type != "Add" or not is_standard(add):
        return position
    other = [name for name in add.input if name != node.output[0]]
    return following[0] if other and all(_is_constant(index, name) for name in other) else position


def _outputs(index: GraphIndex) -> set[str]:
    return {value.name for value in index.graph.output}


def _before_weights(index: GraphIndex) -> set[str]:
    """Return the tensors that a later weighted operator depends on."""
    found: set[str] = set()
    for node in reversed(index.graph.node):
        if node.op_type in _WEIGHTED or any(name in found for name in node.output):
            found.update(reads(node))
    return found


def _reason(
    index: GraphIndex,
    node: onnx.NodeProto,
    end: int,
    readers: dict[str, list[int]],
    before_weights: set[str],
) -> str | None:
    """Return why an operator gets no layer, or None."""
    tensor = index.graph.node[end].output[0]
    following = [index.graph.node[position] for position in readers.get(tensor, [])]
    if any(is_batchnorm(reader) for reader in following):
        return "a BatchNormalization follows already"
    if tensor in _outputs(index) or tensor not in before_weights:
        return "the network's head: no weighted operator follows"
    if node.op_type in _PRODUCTS and not any(_activates(reader) for reader in following):
        return "no activation follows"
    return None


def _activates(node: onnx.NodeProto) -> bool:
    return is_standard(node) and node.op_type in _ACTIVATIONS
